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
from cnnjax.inside import inside

VERSION = "1.30.0"  # of onnxruntime-web that is fetched
LIBRARY, PROGRAM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
TEMPLATE = Path(__file__).with_name("page.html")
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


def wrap(path: Path, card: Card, runtime: Path, images: np.ndarray, p: np.ndarray) -> None:
    """Makes a page of an ONNX file, in its place.

    Args:
        path: of the ONNX file.
        card: the facts, which the page shows.
        runtime: folder of ONNX Runtime Web.
        images: uint8 [n, height, width, 3], drawn ones by which the page checks itself.
        p: float [n, classes], their probabilities.
    """
    told = {"card": card.to_dict(), "images": len(images), "expected": np.asarray(p, np.float64).tolist()}
    parts = {
        "FACTS": _escaped(json.dumps(told, allow_nan=False)),
        "LIBRARY": base64.b64encode((runtime / LIBRARY).read_bytes()).decode(),
        "PROGRAM": _packed((runtime / PROGRAM).read_bytes()),
        "NETWORK": _packed(path.read_bytes()),
        "DRAWN": _packed(np.ascontiguousarray(images).tobytes()),
    }
    page = re.sub(r"@@([A-Z]+)@@", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(page, encoding="utf-8")


def _escaped(text: str) -> str:
    """JSON that no page takes for markup: names of classes may be a stranger's."""
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
