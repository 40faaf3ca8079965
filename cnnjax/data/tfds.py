"""TFDS image-classification sets, prepared and read without TensorFlow (as array_record files)."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

import numpy as np

from cnnjax.data.stand_in import tensorflow_stand_in
from cnnjax.errors import DataError
from cnnjax.inside import inside

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_DEADLINE = 10.0  # seconds a server may take to answer before the network counts as dead
_BATCH = 1024  # examples per read while collecting labels


class TfdsError(DataError):
    """A set that TFDS does not have, cannot prepare, or that is not image classification."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Picklable reference to one example of a prepared set; `split` is TFDS's own name of the split."""

    name: str
    data_dir: str
    split: str
    index: int

    def read(self) -> bytes:
        """The encoded image (content of a PNG or JPEG file), as TFDS stored it."""
        # The pid is part of the cache key because array_record's reader threads do not survive a fork.
        return _source(self.name, self.data_dir, self.split, os.getpid())[self.index]["image"]


@dataclasses.dataclass(frozen=True)
class Items(Sequence):
    """(id, label, split, record) of each labelled example of a prepared set, made when it is asked for.

    Attributes:
        name, data_dir: as of `Record`.
        rows: (TFDS's name of the split, number, label), structured [n].
    """

    name: str
    data_dir: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[str, int, str, Record]:
        split, index, label = self.rows[i].item()
        return f"{_SPLITS[split]}/{index:06d}", label, _SPLITS[split], Record(self.name, self.data_dir, split, index)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, log lines or forgotten temporary directories of TFDS."""
    import tensorflow_datasets
    from tensorflow_datasets.core.utils import lazy_imports_utils

    tensorflow_datasets.disable_progress_bar()
    vars(lazy_imports_utils.tensorflow)["error_callback"] = None  # it prints a banner about TensorFlow
    logger, place = logging.getLogger("absl"), tempfile.tempdir
    level = logger.level
    logger.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # each builder makes a directory there and leaves it
        try:
            yield
        finally:
            tempfile.tempdir = place
            logger.setLevel(level)


@_quiet()
def class_names(name: str, data_dir: str) -> tuple[str, ...]:
    """Class names from the builder; nothing is downloaded.

    A set that keeps its names inside the archive (cifar10) has "0", "1", ... until it is prepared.
    Raises TfdsError for an unknown set and for one without `image` and `label` features.
    """
    return tuple(_builder(name, data_dir).info.features["label"].names)


@_quiet()
def is_prepared(name: str, data_dir: str) -> bool:
    """Whether the set is in `data_dir`, ready to read."""
    return _builder(name, data_dir).is_prepared()


@_quiet()
def load(name: str, data_dir: str, *, archive: str = "") -> tuple[tuple[str, ...], Items, str]:
    """Classes, examples and a fingerprint of `name`; prepares the set when needed.

    `archive` is a local copy of the set's archive (for a set of several files: a directory with them), used
    instead of downloading. Its checksum is not checked, so that a part of the original will do.
    Splits other than train, validation and test, and unlabelled examples (label -1), are left out.
    Raises TfdsError.
    """
    data_dir = os.path.abspath(os.path.expanduser(data_dir))
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        _prepare(name, data_dir, archive)
        builder = _builder(name, data_dir)
    info, parts = builder.info, []
    try:
        for split in [split for split in info.splits if split in _SPLITS]:
            source = _open(builder, split)
            batches = [range(len(source))[at : at + _BATCH] for at in range(0, len(source), _BATCH)]
            labels = (int(example["label"]) for batch in batches for example in source.__getitems__(batch))
            rows = ((split, index, label) for index, label in enumerate(labels) if label >= 0)
            parts.append(np.fromiter(rows, [("split", "U10"), ("index", "i4"), ("label", "i4")]))
    except Exception as error:
        raise TfdsError(
            f"cannot read {builder.data_dir} ({_line(error)}); delete it or choose another data directory, then run again"
        ) from error
    items = Items(name, data_dir, np.concatenate(parts)) if parts else ()
    if not items:
        raise TfdsError(
            f"{name} has no labelled examples in its splits {', '.join(info.splits)}; "
            f"allowed: {', '.join(_SPLITS)}; choose another set: --config=configs/tfds.py:NAME"
        )
    sizes = " ".join(f"{key}={part.num_examples}:{int(part.num_bytes)}" for key, part in info.splits.items())
    return tuple(info.features["label"].names), items, f"tfds:{info.full_name} {sizes}"


@functools.lru_cache(maxsize=16)
def _source(name: str, data_dir: str, split: str, pid: int):
    return _open(_builder(name, data_dir), split)


def _open(builder, split: str):
    """Data source of one prepared split; its images stay encoded."""
    from tensorflow_datasets import decode, features

    images = [key for key, value in builder.info.features.items() if isinstance(value, features.Image)]
    return builder.as_data_source(split, decoders={key: decode.SkipDecoding() for key in images})


def _builder(name: str, data_dir: str):
    """TFDS's builder of a set that is known to have an image and a label."""
    import tensorflow_datasets as tfds

    known, base = tfds.list_builders(with_community_datasets=False), name.split("/")[0].split(":")[0]
    if base not in known:
        near = difflib.get_close_matches(base, known, cutoff=0.5) or ["malaria", "tf_flowers", "cifar10"]
        raise TfdsError(f"TFDS has no set {base!r}; nearest: {', '.join(near)}; type --config=configs/tfds.py:{near[0]}")
    try:
        builder = tfds.builder(name, data_dir=os.path.abspath(os.path.expanduser(data_dir)))
        fields = dict(builder.info.features.items())
    except Exception as error:
        raise TfdsError(f"TFDS cannot build {name} ({_line(error)}); type --config=configs/tfds.py:{base}") from error
    image, label = fields.get("image"), fields.get("label")
    if not (
        isinstance(image, tfds.features.Image)
        and image.np_dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
        and label.num_classes
    ):
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in fields.items())
        raise TfdsError(
            f"{name} has the features {found}; needed: image (Image of uint8) and label "
            "(ClassLabel); choose another set: --config=configs/tfds.py:NAME"
        )
    return builder


def _prepare(name: str, data_dir: str, archive: str) -> None:
    """Write the set's array_record files; TensorFlow itself is asked only where its stand-in is too small."""
    if archive and not os.path.exists(archive):
        raise TfdsError(f"archive {archive} of {name} does not exist; type --config.data.path=FILE of an existing one")
    try:
        try:
            with tensorflow_stand_in():
                _generate(name, data_dir, archive)
        except ImportError as error:
            if error.name != "tensorflow":
                raise
            import tensorflow  # noqa: F401

            _generate(name, data_dir, archive)
    except TfdsError:
        raise
    except ImportError as error:
        package = (error.name or "tensorflow").split(".")[0]
        raise TfdsError(
            f"{name} cannot be prepared without {package} ({error.msg}); type pip install {package} and run again"
        ) from error
    except Exception as error:
        raise TfdsError(
            f"cannot prepare {name} from {archive or 'its download'} ({_line(error)}); "
            "type --config.data.path=ARCHIVE with a good copy of its archive"
        ) from error


def _generate(name: str, data_dir: str, archive: str) -> None:
    """One run of TFDS's own preparation; the set appears in `data_dir` whole or not at all."""
    import tensorflow_datasets as tfds
    import tree

    os.makedirs(data_dir, exist_ok=True)
    builder = _builder(name, data_dir)
    make = builder._make_download_manager

    # Private names, because TFDS has no public way to bring one's own download manager.
    def manager(**kwargs):
        ours = make(**kwargs)
        if archive:
            ours.download = functools.partial(tree.map_structure, _local(name, Path(archive).absolute()))
        else:
            ours._download = _checked(name, ours._download)
        extract = _extractor(ours, scratch)
        ours.extract = functools.partial(tree.map_structure, extract)
        ours.download_and_extract = lambda urls: tree.map_structure(extract, ours.download(urls), urls)
        return ours

    builder._make_download_manager = manager
    with tempfile.TemporaryDirectory(prefix="extract-", dir=data_dir) as scratch:
        # This mode replaces a directory that has no metadata, which TFDS would otherwise take for prepared.
        config = tfds.download.DownloadConfig(
            extract_dir=scratch,
            download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS,
            manual_dir=archive if os.path.isdir(archive) else None,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    _source.cache_clear()


def _extractor(manager, scratch: str):
    """Extract function without TFDS's threads and promises, which Ctrl-C leaves writing or hanging."""
    from tensorflow_datasets.core.download import resource as resources

    def extract(path, asked=None):
        """`path` (of what was `asked` for, a URL or Resource) as an extracted directory, or as it is."""
        resource = (
            path
            if isinstance(path, resources.Resource)
            else resources.Resource(path=path, extract_method=getattr(asked, "_extract_method", None))
        )
        if resource.extract_method == resources.ExtractMethod.NO_EXTRACT:
            return resource.path
        target = type(resource.path)(tempfile.mkdtemp(dir=scratch)) / resource.path.name
        # iter_archive leaves out absolute names, names with '..', and links to files outside the archive.
        for name, file in manager.iter_archive(resource):
            copy = inside(target, str(name)) if name else target  # of a single compressed file, which has no members
            copy.parent.mkdir(parents=True, exist_ok=True)
            with file, copy.open("wb") as stream:
                shutil.copyfileobj(file, stream)
        return target

    return extract


def _local(name: str, archive: Path):
    """Download function that answers with `archive`, or with the file in it that is named as the URL."""
    asked: list[str] = []

    def download(resource):
        url = getattr(resource, "url", resource)
        asked.extend([url] if url not in asked else [])
        file = archive / Path(urlparse(url).path).name if archive.is_dir() else archive
        if file == archive and len(asked) > 1:
            raise TfdsError(
                f"{name} has several files ({', '.join(asked)}) but {archive} is one; "
                "put them into one directory and type --config.data.path=DIRECTORY"
            )
        if not file.exists():
            raise TfdsError(f"{file} of {name} does not exist; put {url} there and type --config.data.path={archive}")
        return file

    return download


def _checked(name: str, download):
    """`download`, failing within _DEADLINE on a dead network, where TFDS would retry for minutes."""
    import requests

    reached: set[str] = set()

    def problem_of(url: str) -> str:
        found = [f"no answer in {_DEADLINE:g} s"]

        def ask():
            try:
                with requests.get(url, stream=True, timeout=_DEADLINE) as answer:
                    found[0] = "" if answer.ok else f"HTTP {answer.status_code}"
            except Exception as error:
                found[0] = type(error).__name__

        # In a thread, because the timeout of requests does not cover the name look-up.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_DEADLINE)
        return found[0]

    def checked(resource):
        url, host = resource.url, urlparse(resource.url).netloc
        if url.startswith("http") and host not in reached and (problem := problem_of(url)):
            raise TfdsError(
                f"cannot download {url} of {name} ({problem}); get it on another machine and type --config.data.path=ARCHIVE"
            )
        reached.add(host)
        return download(resource)

    return checked


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
