"""Where examples come from: a folder, an archive read in place, TFDS, scikit-learn's digits, or drawn cells.

A source lists examples without decoding any; what it lists is the same for any order in which a file system or an
archive keeps its names, and the same for a folder and an archive of it.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from cnnjax import download, remote
from cnnjax.errors import DataError
from cnnjax.progress import Progress

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
OFFICIAL = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Reference(Protocol):
    """How a worker process gets at one example: small, picklable, read there."""

    def read(self) -> bytes | np.ndarray:
        """The encoded file, or uint8 pixels [height, width] or [height, width, channels]."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    id: str  # path below the root, with "/": "Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png"
    label: int  # index into the source's classes
    group: str  # what data.group matched; "" where it did not, and without data.group
    split: str  # train, val or test where the source itself says so, else ""


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled examples, sorted by id."""

    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    fingerprint: str  # changes when any content changes
    stream: Callable[[], Iterator[tuple[int, Reference]]]  # (index into examples, reference), each once, any order
    rejected: tuple[tuple[str, str], ...] = ()  # (id, reason) of files that are never read

    def labels(self) -> np.ndarray:
        """int32 [examples]."""
        return np.array([example.label for example in self.examples], np.int32)


@dataclasses.dataclass(frozen=True, slots=True)
class FileReference:
    path: str

    def read(self) -> bytes:
        return Path(self.path).read_bytes()


@dataclasses.dataclass(frozen=True, slots=True)
class ZipReference:
    archive: str
    member: str

    def read(self) -> bytes:
        return _open_zip(self.archive).read(self.member)


@functools.lru_cache(maxsize=4)
def _open_zip(archive: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


@dataclasses.dataclass(frozen=True, slots=True)
class TarReference:
    archive: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.archive, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(frozen=True, slots=True)
class DataReference:
    data: bytes | np.ndarray

    def read(self) -> bytes | np.ndarray:
        return self.data


@dataclasses.dataclass(frozen=True, slots=True)
class DemoReference:
    seed: int
    id: str

    def read(self) -> bytes:
        from cnnjax import demo

        return demo.draw(self.seed, self.id)


def open_source(config, progress: Progress) -> Source:
    """The source of a `data` section, downloading what must be downloaded.

    Raises:
        DataError: a path that does not exist, fewer than two classes, a name that is not known, no network.
    """
    return SOURCES[config.source](config, progress)


def _files(config, progress: Progress) -> Source:
    if remote.is_remote(config.path):
        path = remote.fetch(config.path, Path(config.cache_dir).expanduser() / "downloads", progress)
    elif config.path:
        path = Path(config.path).expanduser()
    else:
        path = download.fetch(config.url, config.sha256, Path(config.cache_dir).expanduser() / "downloads", progress)
    if not path.exists():
        raise DataError(f"no such folder or archive: {path}; name one with --config.data.path=PATH")
    if path.is_dir():
        return _listed(config, str(path), *_list_folder(path))
    try:
        if zipfile.is_zipfile(path):
            return _listed(config, str(path), *_list_zip(path))
        if tarfile.is_tarfile(path):
            return _listed(config, str(path), *_list_tar(path))
    except DataError:
        raise
    except Exception as error:  # damage makes the readers raise anything, zlib.error and LZMAError among it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); get it again") from None
    raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)}), judged by its content")


# A listing: {path below the root: (reference or None for a compressed tar, facts for the fingerprint)}, the rejected,
# and for a compressed tar the function that streams it.
def _list_folder(root: Path):
    entries, rejected, above = {}, [], {}
    for directory, names, files in os.walk(root, followlinks=True):
        real, higher = os.path.realpath(directory), above.get(os.path.dirname(directory), ())
        if real in higher:  # a link to a folder above would never end
            names.clear()
            continue
        above[directory] = (*higher, real)
        for name in files:
            path = os.path.join(directory, name)
            id = _text(PurePosixPath(Path(path).relative_to(root)).as_posix())
            try:
                facts = os.stat(path)
            except OSError as error:
                rejected.append((id, f"cannot be read ({error.strerror})"))
                continue
            if not stat.S_ISREG(facts.st_mode):
                rejected.append((id, "not a regular file"))
                continue
            entries[id] = FileReference(path), (facts.st_size, facts.st_mtime_ns)
    return entries, rejected, None


def _text(name: str) -> str:
    """A name with bytes that are not UTF-8 spelled out, so that it can be printed and written to files."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or bool(re.match("[A-Za-z]:", name))


def _list_zip(path: Path):
    entries, rejected = {}, []
    for info in _open_zip(str(path)).infolist():
        kind = info.external_attr >> 16
        if info.is_dir():
            continue
        if _unsafe(info.filename):
            rejected.append((info.filename, "points outside the archive"))
        elif stat.S_ISLNK(kind):
            rejected.append((info.filename, "a link inside an archive"))
        else:
            entries[info.filename] = ZipReference(str(path), info.filename), (info.file_size, info.CRC)
    return entries, rejected, None


def _list_tar(path: Path):
    entries, rejected, last = {}, [], {}
    changed = path.stat().st_mtime_ns  # the members of a reproducible tar all have one time
    with tarfile.open(path) as archive:
        compressed = not isinstance(archive.fileobj, io.BufferedReader)
        for number, info in enumerate(_members(archive)):
            name = _text(info.name.removeprefix("./"))
            if info.isdir():
                continue
            if _unsafe(info.name):
                rejected.append((name, "points outside the archive"))
            elif not info.isreg():
                rejected.append((name, "a link or a device inside an archive"))
            else:
                reference = None if compressed else TarReference(str(path), info.offset_data, info.size)
                entries[name] = reference, (info.size, info.mtime, changed)
                last[name] = number

    def stream() -> Iterator[tuple[str, Reference]]:
        # A compressed tar can only be read from its beginning: once through, in its own order.
        with tarfile.open(path, "r|*") as archive:
            for number, info in enumerate(_members(archive)):
                name = _text(info.name.removeprefix("./"))
                if last.get(name) == number:  # of a name that comes more than once, the last counts
                    yield name, DataReference(archive.extractfile(info).read())

    return entries, rejected, stream if compressed else None


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member once. `TarFile` keeps all that it has seen, a kilobyte each."""
    while (info := archive.next()) is not None:
        yield info
        archive.members.clear()


def _listed(config, place: str, entries: dict, rejected: list, stream) -> Source:
    """Finds classes and, where folders are named so, splits among the listed paths."""
    hidden = re.compile(r"(^|/)(__MACOSX|\.(?!\.)[^/]*)(/|$)")
    names = [name for name in entries if not hidden.search(name)]
    folders = {name.rpartition("/")[0] for name in names}
    parts = [folder.split("/") for folder in folders if folder]
    depth = 0  # leading folders that all images share, such as cell_images/
    while True:
        tops = {p[depth] for p in parts if len(p) > depth}
        below = {p[depth + 1] for p in parts if len(p) > depth + 1}
        if len(tops) != 1 or len(below) == 0:
            break
        depth += 1
    split_depth = int(bool(tops) and all(top.lower() in OFFICIAL for top in tops) and len(below) > 0)
    start = depth + split_depth
    found = sorted({p[start] for p in parts if len(p) > start})
    classes = tuple(config.classes) or tuple(found)
    missing = [name for name in classes if name not in found]
    if missing:
        raise DataError(f"{place} has no folder for {', '.join(missing)}; it has {', '.join(found) or 'no folders'}; "
                        "set --config.data.classes")  # fmt: skip
    if len(classes) < 2:
        what = f"one class folder ({classes[0]})" if classes else "no class folders"
        raise DataError(f"{place} has {what}; a classifier needs two or more folders with images, one per class")
    label, chosen, examples = {name: i for i, name in enumerate(classes)}, [], []
    for name in sorted(names):  # all begin with the same folders: sorted by id as well
        p = name.split("/")
        if len(p) > start + 1 and p[start] in label:
            split = OFFICIAL[p[depth].lower()] if split_depth else ""
            group = sys.intern(_group(config.group, "/".join(p[start + 1 :])))
            examples.append(Example("/".join(p[depth:]) if depth else name, label[p[start]], group, split))
            chosen.append(name)
    if not examples:
        raise DataError(f"{place} has no files in its class folders ({', '.join(classes)})")
    fingerprint = _digest((e.id, entries[name][1]) for e, name in zip(examples, chosen, strict=True))
    if stream is None:
        known = [entries[name][0] for name in chosen]
    else:
        position = {name: i for i, name in enumerate(chosen)}

    def references() -> Iterator[tuple[int, Reference]]:
        if stream is None:
            yield from enumerate(known)
        else:
            yield from ((position[name], reference) for name, reference in stream() if name in position)

    rejected = tuple(sorted((name, reason) for name, reason in rejected if not hidden.search(name)))
    return Source(classes, tuple(examples), fingerprint, references, rejected)


def _group(pattern: str, name: str) -> str:
    """What `data.group`, or its first bracket, matches in a name; "" where nothing does."""
    matched = re.search(pattern, name) if pattern else None
    return (matched[matched.re.groups and 1] or "") if matched else ""


def _digest(facts: Iterable) -> str:
    """SHA-256 of a list as JSON, of which no more than an element is held."""
    digest, between = hashlib.sha256(b"["), b""
    for fact in facts:
        digest.update(between + json.dumps(fact).encode())
        between = b", "
    digest.update(b"]")
    return digest.hexdigest()


def _demo(config, progress: Progress) -> Source:
    from cnnjax import demo

    examples = []
    for id in demo.ids(0, config.demo_cells, config.demo_patients):
        folder, _, name = id.partition("/")
        examples.append(Example(id, demo.CLASSES.index(folder), _group(config.group, name), ""))
    content = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()
    return Source(demo.CLASSES, tuple(examples), _digest([content, len(examples), config.demo_patients]),
                  lambda: ((i, DemoReference(0, e.id)) for i, e in enumerate(examples)))  # fmt: skip


def _digits(config, progress: Progress) -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    examples = tuple(Example(f"{label}/{i:04}", int(label), "", "") for i, label in enumerate(data.target))
    return _arrays(tuple(map(str, data.target_names)), examples, [DataReference(p) for p in pixels],
                   hashlib.sha256(pixels.tobytes()).hexdigest())  # fmt: skip


def _tfds(config, progress: Progress) -> Source:
    from cnnjax import tfds

    data_dir = str(Path(config.cache_dir).expanduser() / "tfds")
    archive = str(Path(config.path).expanduser()) if config.path else ""
    classes, rows, fingerprint = tfds.load(config.tfds, data_dir, archive=archive)
    examples = tuple(Example(id, label, "", split) for id, label, split, _ in rows)
    return _arrays(classes, examples, [reference for *_, reference in rows], fingerprint)


def _arrays(classes: tuple[str, ...], examples: Sequence[Example], references: list, fingerprint: str) -> Source:
    order = sorted(range(len(examples)), key=lambda i: examples[i].id)
    return Source(classes, tuple(examples[i] for i in order), fingerprint,
                  lambda: ((new, references[old]) for new, old in enumerate(order)))  # fmt: skip


SOURCES = {"files": _files, "demo": _demo, "digits": _digits, "tfds": _tfds}
