"""Files beside pictures, told by their names: those of systems, tables, texts and videos."""

import re

# Files and folders that systems and programs leave behind, and hidden ones.
SYSTEM = re.compile(
    r"(^|/)(\.(?!\.)[^/]*|__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information|lost\+found)(/|$)"
    r"|(^|/)(ehthumbs(_vista)?\.db|thumbs\.db|desktop\.ini|icon\r)$", re.IGNORECASE)  # fmt: skip
RARE = ("/.", "__MACOSX", "@eaDir", "$RECYCLE", "System Vol", "lost+found")  # in each such path, or it ends in:
ENDS = (".db", ".ini", "\r")
# Names of other files than pictures. Files of any other name are looked at, whatever it is.
OTHERS = (
    ".txt", ".text", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".html",
    ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".ods", ".rtf", ".log", ".ini",
    ".cfg", ".py", ".ipynb", ".m", ".mat", ".npy", ".npz", ".pkl", ".pickle", ".h5", ".hdf5", ".parquet",
    ".arrow", ".pth", ".pt", ".onnx", ".tfrecord", ".sqlite", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz",
    ".7z", ".rar", ".exe", ".dll", ".url", ".lnk", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg",
    ".wmv", ".m4v", ".flv", ".mp3", ".wav", ".ogg", ".flac",
)  # fmt: skip


def is_system(name: str) -> bool:
    """Returns whether a path, with "/", is a file that no person put there, or a hidden one."""
    rare = any(part in name for part in RARE) or name.startswith((".", "lost+found")) or name.lower().endswith(ENDS)
    return rare and bool(SYSTEM.search(name))  # most names need no search


def is_other(name: str) -> bool:
    """Returns whether a file is told by its name not to be a picture: a table, a text, an annotation, an archive, a video."""
    return name.lower().endswith(OTHERS)
