"""TFDS sets prepared from tiny local archives, without a network and without TensorFlow."""

import gzip
import importlib.util
import io
import os
import pickle
import socket
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import tfds

pytest.importorskip("tensorflow_datasets")


class _NoTensorFlow:
    # sys.modules["tensorflow"] = None would not do: TFDS takes that key for a loaded TensorFlow.
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No socket connects, no TensorFlow is importable."""

    def refuse(*args):
        raise OSError("blocked by the test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "tensorflow" else find_spec(name, package)
    )
    monkeypatch.setattr(sys, "meta_path", [_NoTensorFlow(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)


def _image(seed, size=(20, 24), kind="png"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _tar(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def _zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def _malaria(tmp_path, extra=None):
    """Archive path and {image bytes: label}; class i has 5 + i images."""
    images = {
        f"cell_images/{folder}/{n}.png": (_image(10 * label + n, (20 + n, 24)), label)
        for label, folder in enumerate(["Parasitized", "Uninfected"])
        for n in range(5 + label)
    }
    thumbs = {f"cell_images/{folder}/Thumbs.db": b"junk" for folder in ["Parasitized", "Uninfected"]}
    files = {name: content for name, (content, _) in images.items()} | thumbs | (extra or {})
    return _zip(tmp_path / "cells.zip", files), dict(images.values())


def _contents(items):
    return {pickle.loads(pickle.dumps(record)).read(): label for _, label, _, record in items}


def _one_line(error):
    return "\n" not in str(error.value)


def test_malaria_from_an_archive(tmp_path, capfd):
    archive, expected = _malaria(tmp_path)
    data_dir = str(tmp_path / "data")
    assert tfds.class_names("malaria", data_dir) == ("parasitized", "uninfected")
    classes, items, fingerprint = tfds.load("malaria", data_dir, archive=archive)
    assert classes == ("parasitized", "uninfected")
    assert [item[0] for item in items] == [f"train/{n:06d}" for n in range(11)]
    assert {item[2] for item in items} == {"train"}
    assert _contents(items) == expected
    os.remove(archive)
    again = tfds.load("malaria", data_dir)
    assert (again[0], list(again[1]), again[2]) == (classes, list(items), fingerprint)
    assert fingerprint.startswith("tfds:malaria/1.0.0 train=11:")
    assert sorted(os.listdir(data_dir)) == ["downloads", "malaria"]
    assert not os.listdir(os.path.join(data_dir, "downloads"))
    assert capfd.readouterr() == ("", "")


def test_flowers_from_an_archive(tmp_path):
    images = {
        f"flower_photos/{folder}/{n}.jpg": (_image(10 * label + n, kind="jpeg"), label)
        for label, folder in enumerate(["dandelion", "daisy", "tulips", "sunflowers", "roses"])
        for n in range(2)
    }
    files = {name: content for name, (content, _) in images.items()} | {"flower_photos/LICENSE.txt": b"text"}
    archive = _tar(tmp_path / "f.tgz", files)
    classes, items, _ = tfds.load("tf_flowers", str(tmp_path / "data"), archive=archive)
    assert classes == ("dandelion", "daisy", "tulips", "sunflowers", "roses")
    assert _contents(items) == dict(images.values())


def test_cifar10_from_an_archive(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    batches = {f"data_batch_{n}.bin": 2 for n in range(1, 6)} | {"test_batch.bin": 3}
    files, expected, rng = {}, {"train": [], "test": []}, np.random.default_rng(0)
    for file, count in batches.items():
        rows = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        files["cifar-10-batches-bin/" + file] = rows.tobytes()
        expected["test" if "test" in file else "train"] += [
            (int(row[0]), row[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()) for row in rows
        ]
    files["cifar-10-batches-bin/batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    archive, data_dir = _tar(tmp_path / "cifar-10-binary.tar.gz", files), str(tmp_path / "data")
    assert len(tfds.class_names("cifar10", data_dir)) == 10
    classes, items, _ = tfds.load("cifar10", data_dir, archive=archive)
    assert classes == tfds.class_names("cifar10", data_dir) == tuple(names)
    for split in ("train", "test"):
        found = [
            (label, np.asarray(Image.open(io.BytesIO(record.read()))).tobytes())
            for _, label, ours, record in items
            if ours == split
        ]
        assert sorted(found) == sorted(expected[split])
    assert items[-1][0] == "test/000002"


def test_single_compressed_files(tmp_path, monkeypatch):
    from tensorflow_datasets.image_classification import mnist

    folder, images = tmp_path / "mnist", np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    folder.mkdir()
    parts = {"train": (images[:4], [5, 0, 9, 5]), "t10k": (images[4:], [1, 2, 3])}
    for part, (pixels, labels) in parts.items():
        files = {"images-idx3": bytes(16) + pixels.tobytes(), "labels-idx1": bytes(8) + bytes(labels)}
        for name, content in files.items():
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 4)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 3)
    classes, items, _ = tfds.load("mnist", str(tmp_path / "data"), archive=str(folder))
    assert classes == tuple("0123456789")
    for split, (pixels, labels) in zip(("train", "test"), parts.values(), strict=True):
        found = [
            (label, np.asarray(Image.open(io.BytesIO(record.read()))).tobytes())
            for _, label, own, record in items
            if own == split
        ]
        assert sorted(found) == sorted(zip(labels, (image.tobytes() for image in pixels), strict=True))


def test_set_of_several_files_from_a_directory(tmp_path):
    folder = tmp_path / "beans"
    folder.mkdir()
    for seed, split in enumerate(["train", "validation", "test"]):
        _zip(folder / f"{split}.zip", {f"{split}/healthy/0.jpg": _image(seed, (500, 500), "jpeg")})
    _, items, _ = tfds.load("beans", str(tmp_path / "data"), archive=str(folder))
    assert sorted((item[0], item[1]) for item in items) == [("test/000000", 2), ("train/000000", 2), ("val/000000", 2)]
    with pytest.raises(tfds.TfdsError, match="several files.*validation.zip.*data.path=DIRECTORY") as error:
        tfds.load("beans", str(tmp_path / "other"), archive=str(folder / "train.zip"))
    assert _one_line(error)


def test_members_outside_the_archive_are_not_written(tmp_path):
    names = ["../evil.png", "cell_images/../../evil.png", str(tmp_path / "evil.png")]
    archive, expected = _malaria(tmp_path, dict.fromkeys(names, b"evil"))
    _, items, _ = tfds.load("malaria", str(tmp_path / "a" / "data"), archive=archive)
    assert _contents(items) == expected
    assert not [name for _, _, files in os.walk(tmp_path) for name in files if "evil" in name]


def test_links_in_the_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    with tarfile.open(tmp_path / "f.tgz", "w:gz") as tar:
        content = _image(0, kind="jpeg")
        member = tarfile.TarInfo("flower_photos/daisy/0.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("flower_photos/daisy/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    _, items, _ = tfds.load("tf_flowers", str(tmp_path / "data"), archive=str(tmp_path / "f.tgz"))
    assert _contents(items) == {content: 1}


def test_interrupted_preparation_does_not_break_the_next(tmp_path, monkeypatch):
    archive, expected = _malaria(tmp_path)
    data_dir = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.infolist", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tfds.load("malaria", str(data_dir), archive=archive)
    assert not [name for name in os.listdir(data_dir) if name.startswith("extract-")]
    half = data_dir / "malaria" / "1.0.0"
    half.mkdir(parents=True, exist_ok=True)
    (half / "malaria-train.array_record-00000-of-00001").write_bytes(b"half")
    _, items, _ = tfds.load("malaria", str(data_dir), archive=archive)
    assert _contents(items) == expected


def test_damaged_set_is_named(tmp_path):
    archive, _ = _malaria(tmp_path)
    data_dir = tmp_path / "data"
    tfds.load("malaria", str(data_dir), archive=archive)
    (data_dir / "malaria" / "1.0.0" / "malaria-train.array_record-00000-of-00001").unlink()
    with pytest.raises(tfds.TfdsError, match="cannot read .*malaria/1.0.0.*delete it") as error:
        tfds.load("malaria", str(data_dir))
    assert _one_line(error)


@pytest.mark.parametrize(
    "name, message",
    [
        ("malariaa", "no set 'malariaa'; nearest: malaria.*type --config=configs/tfds.py:malaria$"),
        ("zzzzzz", "nearest: malaria, tf_flowers, cifar10; type --config=configs/tfds.py:malaria$"),
        ("imdb_reviews", r"imdb_reviews has the features text \(Text\), label \(ClassLabel\); needed: image"),
        ("emnist/nothing", "cannot build emnist/nothing .*type --config=configs/tfds.py:emnist$"),
    ],
)
def test_unknown_and_unfit_sets(tmp_path, name, message):
    for call in (tfds.class_names, tfds.load):
        with pytest.raises(tfds.TfdsError, match=message) as error:
            call(name, str(tmp_path))
        assert _one_line(error)


def test_builder_that_needs_tensorflow(tmp_path):
    archive = _zip(tmp_path / "k.zip", {"PetImages/Cat/0.jpg": _image(0, kind="jpeg")})
    with pytest.raises(tfds.TfdsError, match="cats_vs_dogs cannot.*pip install tensorflow ") as error:
        tfds.load("cats_vs_dogs", str(tmp_path / "data"), archive=archive)
    assert _one_line(error)


@pytest.mark.parametrize(
    "archive, message",
    [
        ("missing.zip", "missing.zip of malaria does not exist.*data.path=FILE"),
        ("broken.zip", "cannot prepare malaria from .*broken.zip .*data.path=ARCHIVE"),
    ],
)
def test_bad_archives(tmp_path, archive, message):
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(tfds.TfdsError, match=message) as error:
        tfds.load("malaria", str(tmp_path / "data"), archive=str(tmp_path / archive))
    assert _one_line(error)


@pytest.mark.parametrize("hang", [False, True])
def test_dead_network_is_named_soon(tmp_path, monkeypatch, hang):
    if hang:
        monkeypatch.setattr(tfds, "_DEADLINE", 0.5)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: time.sleep(3))
    start = time.monotonic()
    url = "https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip"
    with pytest.raises(tfds.TfdsError, match=f"cannot download {url} of .*data.path=ARCHIVE") as error:
        tfds.load("malaria", str(tmp_path))
    assert _one_line(error)
    assert time.monotonic() - start < 5
