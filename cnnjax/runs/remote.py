"""Addresses such as gs://bucket/cells.zip and s3://bucket/runs/cells, through fsspec: fetched once, and run directories mirrored.

Work is always done on local files. A run directory that is an address is copied here when a command starts, and what has
changed is copied back whenever a checkpoint is whole, and at the end.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from cnnjax.errors import ConfigError, DataError, UserError
from cnnjax.inside import inside
from cnnjax.progress import Progress
from cnnjax.runs.directory import RunDirectory
from cnnjax.runs.sealed import fits, seal_lines, seal_name

SEAL = "files.json"  # beside a copy: names and sizes
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}  # protocol -> extra of this package that brings its library


def is_remote(path: str) -> bool:
    """Returns whether a path is an address."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path))


def _open(url: str):
    """Returns the file system of an address, and the path there. Raises ConfigError."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        how = f"pip install 'cnnjax[{EXTRAS[protocol]}]'" if protocol in EXTRAS else str(error)
        raise ConfigError(f"{url} needs a library that is not installed: {how}") from None
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; addresses begin with gs://, s3:// or another protocol of fsspec") from None


def _get(fs, sources: Sequence[str], targets: Sequence[Path], advance: Callable[[int], None] = lambda n: None) -> None:
    """Copies files from a file system, several at once where it can, and makes their folders."""
    import fsspec

    class Advance(fsspec.callbacks.Callback):
        def relative_update(self, inc=1):
            advance(inc)

        def branched(self, path_1, path_2, **kwargs):  # bytes within a file are not counted
            return fsspec.callbacks.NoOpCallback()

    if sources:
        fs.get(list(sources), [str(path) for path in targets], callback=Advance())


def _name(url: str) -> str:
    """A folder name for an address, readable and its own."""
    return f"{PurePosixPath(url).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _below(name: str, path: str) -> str:
    """The name of a listed file below the place that was listed; "." for the place itself."""
    return "." if name == path else name.removeprefix(f"{path.rstrip('/')}/")


def _target(directory: Path, relative: str) -> Path:
    """Where a listed file goes, which is in `directory`. Raises OutsideError."""
    return directory if relative == "." else inside(directory, relative)


def is_fetched(url: str, directory: Path) -> bool:
    """Returns whether `fetch` has made a copy in `directory` before."""
    return (directory / _name(url) / SEAL).exists()


def fetch(url: str, directory: Path, progress: Progress) -> Path:
    """Returns the local copy of a file or folder, made when there is none or when the sizes there have changed.

    Args:
        url: its address.
        directory: where copies are kept.
        progress: gets a bar.

    Raises:
        ConfigError: no library for the address.
        DataError: it is not there, or cannot be read.
    """
    fs, path = _open(url)
    final = inside(directory, f"{_name(url)}/{PurePosixPath(path).name}")
    seal = final.parent / SEAL
    try:
        found = fs.find(path, detail=True)
        sizes = {_below(name, path): facts["size"] for name, facts in found.items()}
        if not sizes:
            raise DataError(f"nothing at {url}; name an archive or a folder with --config.data.path=ADDRESS")
        if seal.exists() and json.loads(seal.read_text()) == sizes:
            return final
        shutil.rmtree(final.parent, ignore_errors=True)
        final.parent.mkdir(parents=True)
        with progress.task(f"copy {PurePosixPath(path).name}", len(sizes), "files") as advance:
            _get(fs, list(found), [_target(final, relative) for relative in sizes], advance)
        seal.write_text(json.dumps(sizes))
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own
        raise DataError(
            f"cannot read {url} ({type(error).__name__}: {error}); check the address and the rights to it"
        ) from error
    return final


class Mirror:
    """A run directory at an address, worked on in `local`.

    Args:
        url: the run directory.
        directory: where the local copy is kept; it survives, so that little is copied by the next command.
    """

    def __init__(self, url: str, directory: Path):
        self._fs, self._path = _open(url)
        self._url = url
        self.local = directory / "remote" / _name(url)
        self._unpushed = self.local / ".unpushed"  # stands while a push is under way; hidden files are not copied
        self._pushed: dict[str, tuple] = {}
        self._sealed: dict[str, list[str]] = {}  # the lines that are there
        self._lock = threading.Lock()

    def pull(self) -> None:
        """Makes the local copy that of the address, unless this machine has a newer checkpoint than is there.

        Checkpoints without checksums were not whole when the copying ended; they are left out.
        """
        with self._readable():
            there = self._there()
            if _newest(there) < _newest(self._here()) + self._unpushed.exists():
                return  # a push was cut off, or this machine has gone on alone
            skipped = {step for step in _steps(there) if _seal(step) not in there}
            wanted = {name: size for name, size in there.items() if _step(name) not in skipped}
            targets = {name: _target(self.local, name) for name in wanted}  # before anything is copied
            for name in self._here().keys() - wanted.keys():
                inside(self.local, name).unlink()
            # Checkpoints never change; the rest is small.
            here = self._here()
            changed = [name for name, size in wanted.items() if _step(name) is None or here.get(name) != size]
            _get(self._fs, [f"{self._path}/{name}" for name in changed], [targets[name] for name in changed])
            checkpoints = RunDirectory(self.local).checkpoints
            for folder in checkpoints.glob("*"):
                if not any(path.is_file() for path in folder.rglob("*")):
                    shutil.rmtree(inside(checkpoints, folder.name))
            self._pushed = {name: _facts(self.local / name) for name in self._here()}

    def push(self) -> None:
        """Copies what has changed to the address; checksums come after their checkpoint, removals last."""
        with self._lock, self._readable():
            self._unpushed.parent.mkdir(parents=True, exist_ok=True)
            self._unpushed.touch()
            here = self._here()
            for name in sorted(here, key=lambda name: (_step(name) is None, name)):
                with contextlib.suppress(FileNotFoundError):  # of an old checkpoint that has just been removed
                    facts = _facts(self.local / name)
                    if self._pushed.get(name) == facts or name.endswith(".sha256"):
                        continue
                    self._fs.makedirs(f"{self._path}/{PurePosixPath(name).parent}", exist_ok=True)
                    if (seal := _seal_of(name)) in here:
                        self._push_sealed(name, seal)
                    else:
                        self._fs.put_file(str(self.local / name), f"{self._path}/{name}")
                    self._pushed[name] = facts
            for name in self._there().keys() - self._here().keys():
                self._fs.rm_file(f"{self._path}/{name}")
                self._pushed.pop(name, None)
            self._unpushed.unlink(missing_ok=True)

    def _push_sealed(self, name: str, seal: str) -> None:
        """Copies a small file and its checksum, which may both change meanwhile; a copy that is cut off leaves a pair that fits."""
        while True:
            lines, content = seal_lines(self.local / seal, name), (self.local / name).read_bytes()
            if not lines or any(fits(line, content) for line in lines):
                break
            if lines == seal_lines(self.local / seal, name) and content == (self.local / name).read_bytes():
                break  # it was changed by another hand, which the next reader hears of
        self._fs.makedirs(f"{self._path}/{PurePosixPath(seal).parent}", exist_ok=True)
        if name not in self._sealed:  # an earlier process has pushed what is there
            with contextlib.suppress(FileNotFoundError):
                self._sealed[name] = seal_lines(self._fs.cat_file(f"{self._path}/{seal}"), name)
        for kept in ([*self._sealed.get(name, ()), *lines], lines):
            self._fs.pipe_file(f"{self._path}/{seal}", "".join(f"{line}\n" for line in kept).encode())
            if kept is not lines:
                self._fs.pipe_file(f"{self._path}/{name}", content)
        self._sealed[name] = lines

    def _here(self) -> dict[str, int]:
        found = {}
        for folder, _, files in os.walk(self.local):  # which, unlike rglob, bears folders that vanish meanwhile
            for file in files:
                path = Path(folder, file)
                name = path.relative_to(self.local).as_posix()
                # Neither the lock nor a file that is still being written.
                if not file.startswith(".") and ".orbax-checkpoint-tmp" not in name:
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = path.stat().st_size
        return found

    def _there(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        found = self._fs.find(self._path, detail=True) if self._fs.exists(self._path) else {}
        names = {_below(name, self._path): facts["size"] for name, facts in found.items()}
        for name in names:
            _target(self.local, name)
        return names

    @contextlib.contextmanager
    def _readable(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each library has errors of its own
            raise DataError(f"cannot copy from or to {self._url} ({type(error).__name__}: {error}); the run is whole in "
                            f"{self.local}, the same command copies it") from error  # fmt: skip


def _facts(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _step(name: str) -> int | None:
    """The step of a checkpoint's file, else None."""
    folder, step, *rest = *name.split("/"), "", ""
    return (
        int(step) if folder == RunDirectory.checkpoints.name and step.isdecimal() and step.isascii() and any(rest) else None
    )


def _steps(names) -> set[int]:
    return {step for name in names if (step := _step(name)) is not None}


def _seal(step: int) -> str:
    """The checksums of a checkpoint."""
    return f"{RunDirectory.checksums.name}/{step}.json"


def _seal_of(name: str) -> str:
    """The checksum of a small file."""
    return f"{RunDirectory.checksums.name}/{seal_name(name)}"


def _newest(names) -> int:
    """The newest step that is whole; -1 where there is none."""
    return max((step for step in _steps(names) if _seal(step) in names), default=-1)
