"""Tools of the tests of sources: archives that are written, sources that are opened, and all that they hold."""

import io
import tarfile
import zipfile

from cnnjax import config as config_lib
from cnnjax.data import sources
from cnnjax.progress import Progress


def contents(source):
    """{id: bytes}; every example must come once."""
    found = [(source.examples[i].id, reference.read()) for i, reference in source.stream()]
    assert len(found) == len(source.examples) == len(dict(found))
    return dict(found)


def section(path, **values):
    config = config_lib.default()
    config.data.path = str(path)
    for name, value in values.items():
        config.data[name] = value
    return config.data


def opened(path, **values):
    return sources.open_source(section(path, **values), Progress())


def listed(path, **values):
    config = config_lib.override(
        config_lib.default(), {"data.path": str(path), **{f"data.{k}": v for k, v in values.items()}}
    )
    return sources.open_source(config.data, Progress())


def pack(folder, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*"), reverse=True):
                archive.write(file, f"wrapper/{file.relative_to(folder)}")
    else:
        with tarfile.open(path, {".tar": "w", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]) as archive:
            archive.add(folder, "wrapper")
    return path


def tar(path, members, mode="w", **facts):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in facts.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path
