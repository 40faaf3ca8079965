"""Where examples come from: a folder, an archive read in place, TFDS, scikit-learn's digits, or drawn cells.

A source lists examples without decoding any; what it lists is the same for any order in which a file system or an
archive keeps its names, and the same for a folder and an archive of it.
"""

import dataclasses
import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax import runs
from cnnjax.data import download, folders, listings, tables
from cnnjax.data.examples import Example, Examples, Source, digest, group_of
from cnnjax.data.listings import DataReference, Reference
from cnnjax.errors import DataError
from cnnjax.progress import Progress


@dataclasses.dataclass(frozen=True, slots=True)
class DemoReference:
    seed: int
    id: str

    def read(self) -> bytes:
        from cnnjax.data import demo

        return demo.draw(self.seed, self.id)


def open_source(config, progress: Progress) -> Source:
    """The source of a `data` section, downloading what must be downloaded.

    Raises:
        DataError: a path that does not exist, fewer than two classes, a name that is not known, no network.
    """
    source = SOURCES[config.source](config, progress)
    return dataclasses.replace(source, warnings=(*source.warnings, *_twins(source.classes), *_no_groups(config, source)))


def _no_groups(config, source: Source) -> list[str]:
    """A line about an expression that finds no group in any name."""
    if not config.group or any(source.examples.groups):
        return []
    return [f"data.group={config.group} matches in no name, such as {source.examples[0].id!r}; there are no groups"]


def _twins(classes: Sequence[str]) -> list[str]:
    """A line about classes whose names differ in capitals, spaces or Unicode form only."""
    alike = defaultdict(list)
    for name in classes:
        alike[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return (
        [f"{pairs[0]} are different classes with almost the same name; give them one name if they are one"] if pairs else []
    )


def check_path(config) -> None:
    """Raises DataError where a `data` section names a folder or an archive of this machine that is not there."""
    path = Path(os.path.expanduser(config.path))
    if config.path.startswith(("http://", "https://")):
        raise DataError(f"data.path={config.path} is a download; write --config.data.url={config.path} instead")
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise DataError(
            f"{path} is a spreadsheet; save it as {path.stem}.csv, and name that with --config.data.path={path.stem}.csv"
        )
    if config.source == "files" and config.path and not runs.is_remote(config.path) and not os.path.exists(path):
        raise DataError(f"no such folder or archive: {path}; name one with --config.data.path=PATH")


def unfetched(config) -> tuple[str, str]:
    """Returns the key and the address of a `data` section that is not in the user's cache; ("", "") where nothing is to be fetched."""
    downloads = Path(config.cache_dir).expanduser() / "downloads"
    if config.source == "tfds":  # with data.path too: preparing writes to the cache of all runs
        from cnnjax.data import tfds

        # A name with ":" is of a community's set, whose code TFDS would fetch and run.
        here = ":" not in config.tfds and tfds.is_prepared(config.tfds, str(downloads.parent / "tfds"))
        return ("", "") if here else ("data.tfds", config.tfds)
    if config.source != "files":
        return "", ""
    if runs.is_remote(config.path) and not runs.is_fetched(config.path, downloads):
        return "data.path", config.path
    if not config.path and config.url and not download.place(config.url, downloads).exists():
        return "data.url", config.url
    return "", ""


def _files(config, progress: Progress) -> Source:
    check_path(config)
    if runs.is_remote(config.path):
        path = runs.fetch(config.path, Path(config.cache_dir).expanduser() / "downloads", progress)
    elif config.path:
        path = Path(config.path).expanduser()
    else:
        path = download.fetch(config.url, config.sha256, Path(config.cache_dir).expanduser() / "downloads", progress)
    source = _labelled(config, path)
    # Sizes and times can be those of another set; its place is not.
    return dataclasses.replace(source, fingerprint=digest([os.path.realpath(path), source.fingerprint]))


def _labelled(config, path: Path) -> Source:
    if tables.is_table(str(path)) and (path.is_file() or not path.exists()):  # a pipe would be waited for
        return tables.labelled(config, path)
    listed = listings.list_files(path, config.names, partial=config.partial)
    if config.label or config.class_level:
        return folders.labelled_by_name(config, str(path), listed)
    return folders.labelled(config, str(path), listed)


def _check_classes(config, classes: tuple[str, ...], place: str) -> None:
    """Raises DataError where data.classes asks for others than a source has, which has no folders to choose from."""
    if config.classes and set(config.classes) != set(classes):
        raise DataError(f"data.classes={','.join(config.classes)}, but {place} always has {', '.join(classes)}; leave data.classes out: "
                        "--config.data.classes=")  # fmt: skip


def _demo(config, progress: Progress) -> Source:
    from cnnjax.data import demo

    def examples() -> Iterator[Example]:
        for id in demo.ids(0, config.demo_cells, config.demo_patients):
            folder, _, name = id.partition("/")
            yield Example(id, demo.CLASSES.index(folder), group_of(config.group, name), "")

    _check_classes(config, demo.CLASSES, "the demo")
    listed = Examples.of(examples())
    content = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()
    return Source(demo.CLASSES, listed, digest([content, len(listed), config.demo_patients]),
                  lambda: ((i, DemoReference(0, id)) for i, id in enumerate(listed.ids)))  # fmt: skip


def _digits(config, progress: Progress) -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    _check_classes(config, tuple(map(str, data.target_names)), "the digits")
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    examples = Examples.of(Example(f"{label}/{i:04}", int(label), "", "") for i, label in enumerate(data.target))
    return _arrays(tuple(map(str, data.target_names)), examples, lambda: map(DataReference, pixels),
                   hashlib.sha256(pixels.tobytes()).hexdigest())  # fmt: skip


def _tfds(config, progress: Progress) -> Source:
    from cnnjax.data import tfds

    data_dir = str(Path(config.cache_dir).expanduser() / "tfds")
    archive = str(Path(config.path).expanduser()) if config.path else ""
    classes, rows, fingerprint = tfds.load(config.tfds, data_dir, archive=archive)
    _check_classes(config, classes, config.tfds)
    examples = Examples.of(Example(id, label, "", split) for id, label, split, _ in rows)
    return _arrays(classes, examples, lambda: (reference for *_, reference in rows), fingerprint)


def _arrays(classes: tuple[str, ...], examples: Examples, references: Callable[[], Iterable[Reference]],
            fingerprint: str) -> Source:  # fmt: skip
    """Makes a source of examples in any order, and of their references in the same order."""
    order = examples.ids.order()
    rows = np.argsort(order)
    return Source(classes, Examples.of(examples[i] for i in order), fingerprint,
                  lambda: zip(map(int, rows), references(), strict=True))  # fmt: skip


SOURCES = {"files": _files, "demo": _demo, "digits": _digits, "tfds": _tfds}
