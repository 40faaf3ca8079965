"""One HTML page that classifies pictures in a browser, without a server and without a network: the ONNX file and its runtime inside."""

import base64
import gzip
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from cnnjax.errors import ConfigError
from cnnjax.export.card import Card
from cnnjax.export.drawn import coarse_images, jpeg_picture
from cnnjax.inside import inside

VERSION = "1.30.0"  # of onnxruntime-web that is fetched
LIBRARY, PROGRAM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
TEMPLATE = Path(__file__).with_name("page.html")
# 85 letters that mean nothing to HTML or inside a quoted text of JavaScript: a quarter more than the bytes, where base64 takes a third.
LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#%()*+,-./:;=?[]^_{|}~"
SECONDS = 300  # for npm to fetch 25 MB


def find_runtime(given: str, cache: Path) -> Path:
    """Returns the folder with the two files of ONNX Runtime Web.

    Args:
        given: the folder, or one that has it in `dist` or in `node_modules/onnxruntime-web/dist`; "": the cache, which npm fills.
        cache: of the data.

    Raises:
        ConfigError: the files are not there, or cannot be fetched.
    """
    if given:
        root = Path(given).expanduser()
        for folder in (root, root / "dist", root / "node_modules" / "onnxruntime-web" / "dist"):
            if all((folder / name).is_file() for name in (LIBRARY, PROGRAM)):
                return folder
        raise ConfigError(f"--ort={given} has no {LIBRARY} and {PROGRAM}; name the folder dist of npm's onnxruntime-web, such as "
                          "--ort=node_modules/onnxruntime-web/dist")  # fmt: skip
    folder = inside(cache, f"onnxruntime-web-{VERSION}")
    if not all((folder / name).is_file() for name in (LIBRARY, PROGRAM)):
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Has npm get the package, and keeps the two files of it."""
    advice = f"get it where there is a network (npm install onnxruntime-web@{VERSION}), and add --ort=node_modules/onnxruntime-web/dist"
    if shutil.which("npm") is None:
        raise ConfigError(f"--format=html takes ONNX Runtime Web, and npm, which fetches it, is not installed; {advice}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        asked = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--silent", "--ignore-scripts"]
        try:
            subprocess.run(asked, cwd=temporary, capture_output=True, text=True, check=True, timeout=SECONDS)
            with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
                for name in (PROGRAM, LIBRARY):
                    new = Path(temporary, name)
                    new.write_bytes(archive.extractfile(f"package/dist/{name}").read())
                    new.replace(folder / name)
        except (subprocess.SubprocessError, StopIteration, KeyError, tarfile.TarError, OSError) as error:
            lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise ConfigError(
                f"--format=html: npm cannot fetch onnxruntime-web ({' '.join(lines[-1:])[:200]}); {advice}"
            ) from None


def wrap(path: Path, card: Card, runtime: Path, p: np.ndarray) -> None:
    """Makes a page of an ONNX file, in its place.

    Args:
        path: of the ONNX file.
        card: the facts, which the page shows.
        runtime: folder of ONNX Runtime Web.
        p: float [n, classes], probabilities of `drawn_images`, by which the page checks itself; a JPEG file tells it how its browser decodes.
    """
    jpeg, pixels = (base64.b64encode(part).decode() for part in jpeg_picture())
    told = {"card": card.to_dict(), "letters": LETTERS.decode(), "drawn": coarse_images().reshape(len(p), -1).tolist(),
            "expected": np.asarray(p, np.float64).tolist(), "jpeg": jpeg, "pixels": pixels}  # fmt: skip
    parts = {
        "FACTS": _escaped(json.dumps(told, allow_nan=False)),
        "LIBRARY": _packed((runtime / LIBRARY).read_bytes()),
        "PROGRAM": _packed((runtime / PROGRAM).read_bytes()),
        "NETWORK": _packed(path.read_bytes()),
    }
    page = re.sub(r"@@([A-Z]+)@@", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(page, encoding="utf-8")


def _escaped(text: str) -> str:
    """JSON that no page takes for markup: names of classes may be a stranger's."""
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _packed(content: bytes) -> str:
    """Compressed bytes as text: five of `LETTERS` for four bytes, the highest first."""
    data = gzip.compress(content, 9, mtime=0)
    missing = -len(data) % 4
    words = np.frombuffer(data + bytes(missing), ">u4").astype(np.uint64)
    digits = np.stack([words // 85**power % 85 for power in (4, 3, 2, 1, 0)], axis=1).astype(np.uint8)
    text = np.frombuffer(LETTERS, np.uint8)[digits].tobytes()
    return text[: len(text) - missing].decode()
