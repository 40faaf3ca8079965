"""Where examples come from: a folder, an archive read in place, TFDS, scikit-learn's digits, or drawn cells.

A source lists examples without decoding any; what it lists is the same for any order in which a file system or an
archive keeps its names, and the same for a folder and an archive of it.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import re
import stat
import struct
import tarfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from cnnjax import download, remote
from cnnjax.columns import PART, Repeated, Texts, in_parts, table
from cnnjax.errors import DataError
from cnnjax.progress import Progress

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
SIGNATURES = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # with which archives, but for .tar, begin
OFFICIAL = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Reference(Protocol):
    """How a worker process gets at one example: small, picklable, read there."""

    def read(self) -> bytes | np.ndarray:
        """The encoded file, or uint8 pixels [height, width] or [height, width, channels]."""


class Example(NamedTuple):
    id: str  # path below the root, with "/": "Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png"
    label: int  # index into the source's classes
    group: str  # what data.group matched; "" where it did not, and without data.group
    split: str  # train, val or test where the source itself says so, else ""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(Sequence):
    """Examples as columns, of which each is made when it is asked for: a million of them take 16 MB, not 500.

    Attributes:
        ids: n texts.
        labels: int32 [n].
        groups, splits: one text per example.
    """

    ids: Texts
    labels: np.ndarray
    groups: Repeated
    splits: Repeated

    @classmethod
    def of(cls, examples: Iterable[tuple[str, int, str, str]]) -> "Examples":
        """The columns of what is read once and not kept."""
        return cls(*table(examples, Texts, np.int32, Repeated, Repeated))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Example:
        return Example(self.ids[i], int(self.labels[i]), self.groups[i], self.splits[i])

    def __iter__(self) -> Iterator[Example]:
        return map(Example, self.ids, map(int, self.labels), self.groups, self.splits)

    def take(self, rows: np.ndarray) -> "Examples":
        """Those at int64 `rows`, in their order."""
        return Examples(self.ids.take(rows), self.labels[rows], self.groups.take(rows), self.splits.take(rows))


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled examples, sorted by id."""

    classes: tuple[str, ...]
    examples: Sequence[Example]
    fingerprint: str  # changes when any content changes
    stream: Callable[[], Iterator[tuple[int, Reference]]]  # (index into examples, reference), each once, any order
    rejected: tuple[tuple[str, str], ...] = ()  # (id, reason) of files that are never read

    def labels(self) -> np.ndarray:
        """int32 [examples]."""
        return self.examples.labels


class FileReference(NamedTuple):
    path: str
    size: int | None = None  # in bytes, as far as it is known

    def read(self) -> bytes:
        file = os.open(self.path, os.O_RDONLY)  # half the calls of `open`
        try:
            size = os.fstat(file).st_size if self.size is None else self.size
            data = os.read(file, size + 1)
            while len(data) != size and (more := os.read(file, 2**20)):  # it has grown, or a read was cut short
                data += more
            return data
        finally:
            os.close(file)


@dataclasses.dataclass(frozen=True, slots=True)
class ZipReference:
    archive: str
    member: str
    place: tuple[int, ...]  # as `ZIP_PLACE`

    def read(self) -> bytes:
        info = zipfile.ZipInfo(self.member)
        for (name, _), value in zip(ZIP_PLACE, self.place, strict=True):
            setattr(info, name, value)
        if info.flag_bits & 1:
            raise RuntimeError(f"File {self.member!r} is encrypted, password required for extraction")
        return _open_zip(self.archive).read(info)


ZIP_PLACE = [("file_size", "u8"), ("CRC", "u4"), ("header_offset", "i8"), ("compress_size", "u8"), ("flag_bits", "u2"),
             ("compress_type", "u2")]  # fmt: skip


@functools.lru_cache(maxsize=4)
def _open_zip(archive: str) -> zipfile.ZipFile:
    """Reads members that it is told where to find; it knows of none, for a directory takes a kilobyte for each."""
    opened = zipfile.ZipFile(io.BytesIO(_zip_end(0, 0)))
    opened.fp = open(archive, "rb")  # noqa: SIM115
    weakref.finalize(opened, opened.fp.close)
    return opened


def _zip_end(count: int, size: int) -> bytes:
    """What closes a zip archive whose directory has `count` members in `size` bytes."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, 0, 0)


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


def check_path(config) -> None:
    """Raises DataError where a `data` section names a folder or an archive of this machine that is not there."""
    path = Path(config.path).expanduser()
    if config.source == "files" and config.path and not remote.is_remote(config.path) and not path.exists():
        raise DataError(f"no such folder or archive: {path}; name one with --config.data.path=PATH")


def _files(config, progress: Progress) -> Source:
    if remote.is_remote(config.path):
        path = remote.fetch(config.path, Path(config.cache_dir).expanduser() / "downloads", progress)
    elif config.path:
        check_path(config)
        path = Path(config.path).expanduser()
    else:
        path = download.fetch(config.url, config.sha256, Path(config.cache_dir).expanduser() / "downloads", progress)
    if path.is_dir():
        return _listed(config, str(path), _list_folder(path))
    try:
        if zipfile.is_zipfile(path):
            return _listed(config, str(path), _list_zip(path))
        if tarfile.is_tarfile(path):
            return _listed(config, str(path), _list_tar(path))
    except DataError:
        raise
    except Exception as error:  # damage makes the readers raise anything, zlib.error and LZMAError among it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); get it again") from None
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(262)
    if not size or head.startswith(SIGNATURES) or head[257:] == b"ustar":
        raise DataError(f"{path} is an archive that is cut or damaged (it has {size:,} bytes); compare its size with the "
                        "original's and get it again")  # fmt: skip
    raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)}), judged by its content; name one "
                    "with --config.data.path=PATH")  # fmt: skip


@dataclasses.dataclass
class _Files:
    """The files of a folder or an archive, in its own order.

    Attributes:
        names: paths below the root with "/"; of one that comes more than once, the last counts.
        places: structured [files], what the fingerprint depends on, and where to find the file.
        facts: place -> what of it the fingerprint depends on.
        rejected: (name, reason).
        reference: (name, place) -> reference.
        stream: of what can only be read from its beginning: () -> (number of the file, reference).
    """

    names: Texts
    places: np.ndarray
    facts: Callable[[tuple], tuple]
    rejected: list[tuple[str, str]]
    reference: Callable[[str, tuple], Reference]
    stream: Callable[[], Iterator[tuple[int, Reference]]] | None = None


def _list_folder(root: Path) -> _Files:
    rejected, spelled, above = [], {}, {}

    def rows() -> Iterator[tuple]:
        for directory, names, files, place in os.fwalk(root, follow_symlinks=True):
            real, higher = os.path.realpath(directory), above.get(os.path.dirname(directory), ())
            if real in higher:  # a link to a folder above would never end
                names.clear()
                continue
            above[directory] = (*higher, real)
            below = os.path.relpath(directory, root)
            below = "" if below == "." else f"{below}/"
            for name in files:
                relative = below + name
                id = _text(relative)
                if id != relative:
                    spelled[id] = relative
                try:
                    facts = os.stat(name, dir_fd=place)  # the folders above it are not looked up again
                except OSError as error:
                    rejected.append((id, f"cannot be read ({error.strerror})"))
                    continue
                if not stat.S_ISREG(facts.st_mode):
                    rejected.append((id, "not a regular file"))
                    continue
                yield id, (facts.st_size, facts.st_mtime_ns)

    names, places = table(rows(), Texts, np.dtype([("size", "i8"), ("changed", "i8")]))
    above = os.path.join(root, "")
    return _Files(
        names, places, tuple, rejected, lambda name, place: FileReference(above + spelled.get(name, name), place[0])
    )


def _text(name: str) -> str:
    """A name with bytes that are not UTF-8 spelled out, so that it can be printed and written to files."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or bool(re.match("[A-Za-z]:", name))


def _list_zip(path: Path) -> _Files:
    rejected, spelled = [], {}

    def rows() -> Iterator[tuple]:
        with open(path, "rb") as file:
            for info in _zip_members(file):
                # Some programs of Windows write "\\" where the format wants "/".
                name = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
                if name.endswith("/"):
                    continue
                if _unsafe(name):
                    rejected.append((name, "points outside the archive"))
                elif stat.S_ISLNK(info.external_attr >> 16):
                    rejected.append((name, "a link inside an archive"))
                else:
                    if info.orig_filename != name:
                        spelled[name] = info.orig_filename
                    yield name, tuple(getattr(info, field) for field, _ in ZIP_PLACE)

    names, places = table(rows(), Texts, np.dtype(ZIP_PLACE))
    return _Files(names, places, lambda place: place[:2], rejected,
                  lambda name, place: ZipReference(str(path), spelled.get(name, name), place))  # fmt: skip


def _zip_members(file) -> Iterator[zipfile.ZipInfo]:
    """What `zipfile` says of each member, a part of the directory at a time. `ZipFile` keeps all, a kilobyte each."""
    end = zipfile._EndRecData(file)  # private: the search for the end that `is_zipfile` has made
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    left, given = end[5], end[6]
    start = end[9] - left - (76 if end[0] == b"PK\6\6" else 0)  # bytes of the end of a large archive (ZIP64)
    if start < 0:
        raise zipfile.BadZipFile("Bad offset for central directory")
    file.seek(start)
    while left > 0:
        part, count = bytearray(), 0
        while left > 0 and count < 1000:
            head = file.read(46)
            if len(head) < 46:
                raise zipfile.BadZipFile("Truncated central directory")
            entry = head + file.read(sum(struct.unpack_from("<3H", head, 28)))  # name, extra field, comment
            part += entry
            left, count = left - len(entry), count + 1
        for info in zipfile.ZipFile(io.BytesIO(part + _zip_end(count, len(part)))).infolist():
            info.header_offset += start - given  # where something stands before the archive
            yield info


def _list_tar(path: Path) -> _Files:
    changed = path.stat().st_mtime_ns  # the members of a reproducible tar all have one time
    rejected = []
    with tarfile.open(path) as archive:
        compressed = not isinstance(archive.fileobj, io.BufferedReader)
        # The time is kept as it is, whole or not, because the fingerprint depends on it.
        rows = (
            (name, (info.size, json.dumps(info.mtime), info.offset_data)) for name, info in _tar_files(archive, rejected)
        )
        names, places = table(rows, Texts, np.dtype([("size", "i8"), ("time", "S32"), ("offset", "i8")]))

    def stream() -> Iterator[tuple[int, Reference]]:
        with tarfile.open(path, "r|*") as archive:
            for number, (_, info) in enumerate(_tar_files(archive, [])):
                yield number, DataReference(archive.extractfile(info).read())

    return _Files(names, places, lambda place: (place[0], json.loads(place[1]), changed), rejected,
                  lambda _, place: TarReference(str(path), place[2], place[0]),
                  stream if compressed else None)  # fmt: skip


def _tar_files(archive: tarfile.TarFile, rejected: list) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Name and member of each file that may be read; the others are added to `rejected`."""
    for info in _members(archive):
        name = _text(info.name.removeprefix("./"))
        if info.isdir():
            continue
        if _unsafe(info.name):
            rejected.append((name, "points outside the archive"))
        elif not info.isreg():
            rejected.append((name, "a link or a device inside an archive"))
        else:
            yield name, info


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member once. `TarFile` keeps all that it has seen, a kilobyte each."""
    while (info := archive.next()) is not None:
        yield info
        archive.members.clear()


def _listed(config, place: str, files: _Files) -> Source:
    """Finds classes and, where folders are named so, splits among the listed paths."""
    hidden = re.compile(r"(^|/)(__MACOSX|\.(?!\.)[^/]*)(/|$)")
    # Most names need no search.
    shown = np.fromiter((not ("/." in f"/{name}" or "__MACOSX" in name) or not hidden.search(name) for name in files.names),
                        bool, len(files.names))  # fmt: skip
    folders = {name.rpartition("/")[0] for name in itertools.compress(files.names, shown)}
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
        what = f"files in one class folder only ({classes[0]})" if classes else "no files in class folders"
        raise DataError(f"{place} has {what}; a classifier needs two or more folders with images, one per class")
    label = {name: i for i, name in enumerate(classes)}
    above = "".join(f"{part}/" for part in parts[0][:depth])
    pattern = config.group

    @functools.cache
    def known(folder: str) -> tuple[int, int, str] | None:
        """Label, letters up to the class's folder and split of what lies in a folder; None outside of the classes."""
        p = folder.split("/")
        if len(p) <= start or p[start] not in label:
            return None
        split = OFFICIAL[p[depth].lower()] if split_depth else ""
        return label[p[start]], sum(len(part) + 1 for part in p[: start + 1]), split

    named = files.names.take(shown)
    named = named.take(named.order())  # all begin with the same folders: sorted by id as well

    def examples() -> Iterator[tuple[int, int, str, str]]:
        """Number of the file, label, group, split; of files with one name the last."""
        rows = zip(named.rows, named, strict=True)
        for (number, name), (_, after) in itertools.pairwise(itertools.chain(rows, [(0, "")])):
            if name != after and (facts := known(name.rpartition("/")[0])):
                yield number, facts[0], _group(pattern, name[facts[1] :]), facts[2]

    numbers, *columns = table(examples(), np.uint32, np.int32, Repeated, Repeated)
    ids = dataclasses.replace(named, rows=numbers, skipped=len(above.encode()))
    listed = Examples(ids, *columns)
    if not listed:
        raise DataError(f"{place} has no files in its class folders ({', '.join(classes)})")
    rejected = tuple(sorted((name, reason) for name, reason in files.rejected if not hidden.search(name)))
    if files.stream is None:
        references = functools.partial(_references, files.reference, above, ids, files.places)
    else:
        position = np.full(len(files.names), -1, np.int32)
        position[ids.rows] = np.arange(len(ids), dtype=np.int32)
        references = functools.partial(_known, files.stream, position)
    facts = ((id, files.facts(place)) for id, place in zip(ids, _placed(ids, files.places), strict=True))
    return Source(classes, listed, _digest(facts), references, rejected)


def _placed(ids: Texts, places: np.ndarray) -> Iterator[tuple]:
    """The place of each example's file."""
    for at in range(0, len(ids), PART):
        yield from places[ids.rows[at : at + PART]].tolist()


def _references(reference: Callable, above: str, ids: Texts, places: np.ndarray) -> Iterator[tuple[int, Reference]]:
    for i, (id, place) in enumerate(zip(ids, _placed(ids, places), strict=True)):
        yield i, reference(above + id, place)


def _known(stream: Callable, position: np.ndarray) -> Iterator[tuple[int, Reference]]:
    return ((int(position[number]), reference) for number, reference in stream() if position[number] >= 0)


def _group(pattern: str, name: str) -> str:
    """What `data.group`, or its first bracket, matches in a name; "" where nothing does."""
    matched = re.search(pattern, name) if pattern else None
    return (matched[matched.re.groups and 1] or "") if matched else ""


def _digest(facts: Iterable) -> str:
    """SHA-256 of a list as JSON, of which no more than `PART` elements are held."""
    digest, between = hashlib.sha256(b"["), b""
    for part in in_parts(facts):
        digest.update(between + json.dumps(part)[1:-1].encode())
        between = b", "
    digest.update(b"]")
    return digest.hexdigest()


def _demo(config, progress: Progress) -> Source:
    from cnnjax import demo

    def examples() -> Iterator[Example]:
        for id in demo.ids(0, config.demo_cells, config.demo_patients):
            folder, _, name = id.partition("/")
            yield Example(id, demo.CLASSES.index(folder), _group(config.group, name), "")

    listed = Examples.of(examples())
    content = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()
    return Source(demo.CLASSES, listed, _digest([content, len(listed), config.demo_patients]),
                  lambda: ((i, DemoReference(0, id)) for i, id in enumerate(listed.ids)))  # fmt: skip


def _digits(config, progress: Progress) -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    examples = Examples.of(Example(f"{label}/{i:04}", int(label), "", "") for i, label in enumerate(data.target))
    return _arrays(tuple(map(str, data.target_names)), examples, lambda: map(DataReference, pixels),
                   hashlib.sha256(pixels.tobytes()).hexdigest())  # fmt: skip


def _tfds(config, progress: Progress) -> Source:
    from cnnjax import tfds

    data_dir = str(Path(config.cache_dir).expanduser() / "tfds")
    archive = str(Path(config.path).expanduser()) if config.path else ""
    classes, rows, fingerprint = tfds.load(config.tfds, data_dir, archive=archive)
    examples = Examples.of(Example(id, label, "", split) for id, label, split, _ in rows)
    return _arrays(classes, examples, lambda: (reference for *_, reference in rows), fingerprint)


def _arrays(classes: tuple[str, ...], examples: Examples, references: Callable[[], Iterable[Reference]],
            fingerprint: str) -> Source:  # fmt: skip
    """Of examples in any order, and their references in the same."""
    order = examples.ids.order()
    rows = np.argsort(order)
    return Source(classes, examples.take(order), fingerprint, lambda: zip(map(int, rows), references(), strict=True))


SOURCES = {"files": _files, "demo": _demo, "digits": _digits, "tfds": _tfds}
