"""Exported files of a run: checked in a fresh process, read again, refused where they would be wrong or overwrite something."""

import dataclasses
import hashlib
import importlib
import json
import runpy
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from training_tools import ROOT, Said, child, one_line

import cnnjax
from cnnjax import inference, weights
from cnnjax.errors import ConfigError, DataError
from cnnjax.export import FORMATS, Card
from cnnjax.export import writing as writing_lib
from cnnjax.runs import RunDirectory

command = importlib.import_module("cnnjax.commands.export")
MOVED = ("onnx", "stablehlo", "safetensors")


@pytest.fixture(scope="module")
def cells(plain):
    return cnnjax.load(plain.workdir)


@pytest.fixture(scope="module")
def files(plain, tmp_path_factory):
    """The run in every format that needs no TensorFlow: format -> (path, what the command returned)."""
    folder, found = tmp_path_factory.mktemp("exported"), {}
    for kind in MOVED:
        path = folder / f"cells{FORMATS[kind].ending}"
        found[kind] = path, exported(plain, path)
    return found


def exported(plain, path, **options):
    return command.export(plain.workdir, path, overrides={"data.cache_dir": plain.config.data.cache_dir}, **options)


def thumbnails(plain):
    return sorted(map(str, RunDirectory(plain.workdir).thumbnails("test").glob("*")))


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_a_file_is_checked_on_all_of_validation_and_says_so_beside_it(files, plain, kind):
    path, made = files[kind]
    beside = json.loads((path.parent / f"{path.name}.json").read_text())
    val = plain.summary["val"]
    assert made.images == made.same == val["images"] == beside["check"]["images"] and 0 < made.largest < 1e-5
    assert made.metrics["auc"]["file"]["value"] == pytest.approx(val["auc"], abs=1e-9)
    assert made.metrics["accuracy"]["difference"]["value"] == 0
    assert (
        beside["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and beside["check"]["bytes"] == path.stat().st_size
    )
    assert made.seconds.keys() == {1, 32} and min(made.seconds.values()) > 0


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_an_exported_file_answers_as_the_classifier(files, plain, cells, kind):
    made = inference.open_exported(files[kind][0])
    assert (made.classes, made.positive, made.threshold, made.card.step) == (
        cells.classes,
        cells.positive,
        cells.threshold,
        cells.step,
    )
    assert made.preprocessing == cells.preprocessing and len(made.card.digest) == 64
    assert (
        made.card.test["auc"] == plain.summary["test"]["auc"] and made.card.intervals == plain.summary["intervals"]["test"]
    )
    pixels = np.concatenate(
        [pixels for pixels, _ in cells.decoded(map(inference.given.reference_of, thumbnails(plain)), 99)]
    )
    p, called = cells.read(pixels)
    np.testing.assert_allclose(made.probabilities(pixels), p, atol=1e-5)
    assert made.probabilities(pixels).dtype == np.float64 and made.called(p).tolist() == called.tolist()
    assert made.probabilities(pixels[:0]).shape == (0, 2)
    with pytest.raises(DataError, match=r"takes an array uint8 \[n, 16, 16, 3\] in \[0, 255\], not float32") as error:
        made.probabilities(pixels.astype(np.float32))
    one_line(error)


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_the_script_of_the_examples_gives_predicts_probabilities_without_cnnjax(files, plain, cells, kind):
    script = ROOT / "examples" / f"predict_{kind}.py"
    assert len(script.read_text().splitlines()) <= 30
    code = f"import sys, runpy; sys.modules['cnnjax'] = None; sys.argv[0] = {str(script)!r}; runpy.run_path({str(script)!r})"
    images = thumbnails(plain)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(files[kind][0]), *images], capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = cells.predict(images)
    assert [row["path"] for row in told] == images and [row["class"] for row in told] == [p.predicted for p in wanted]
    np.testing.assert_allclose(
        [row["probabilities"] for row in told], [list(p.probabilities.values()) for p in wanted], atol=1e-5
    )


def test_the_resize_of_the_examples_is_that_of_training(tmp_path):
    from PIL import Image

    from cnnjax import data

    source = (ROOT / "examples" / "predict_onnx.py").read_text().partition("\nsession")[0]
    (tmp_path / "part.py").write_text(source)
    pixels = runpy.run_path(str(tmp_path / "part.py"))["pixels"]
    image = np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    for method in ("bilinear", "bicubic", "nearest", "pad"):
        for shape in ((16, 16), (50, 20), (64, 120)):
            how = {"size": shape[0], "width": shape[1], "resize": method}
            assert (pixels(tmp_path / "a.png", how)[0] == data.resize(image, shape, method)).all(), (method, shape)


def test_weights_have_pytorchs_layout_and_begin_another_run(files, plain, cells, tmp_path):
    path, made = files["safetensors"]
    assert made.metrics == {} and made.largest == 0
    with safe_open(path, "np") as file:
        assert Card.from_json(file.metadata()["cnnjax"], "x").classes == cells.classes
        kernel = file.get_tensor("conv1.weight")
    np.testing.assert_array_equal(kernel.transpose(2, 3, 1, 0), cells.params["params"]["conv1"]["kernel"])
    config = dataclasses.replace(plain.config, model=dataclasses.replace(plain.config.model, weights=str(path)))
    assert weights.wanted(config) == cells.preprocessing
    network = inference.restore(plain.workdir).engine.network
    matched, facts = weights.load(config, network)
    assert facts.names == "cnnjax" and facts.new == ()
    for name, array in matched.arrays.items():
        np.testing.assert_array_equal(array, cells.params["params"][name[0]][name[1]])


def test_an_existing_file_is_never_replaced(files, plain, tmp_path):
    path = files["onnx"][0]
    before = path.read_bytes()
    with pytest.raises(
        ConfigError, match=r"cells\.onnx exists, and is not replaced; remove it, or name another --output=FILE\.onnx"
    ) as error:
        exported(plain, path)
    one_line(error)
    assert path.read_bytes() == before
    (tmp_path / "new.onnx.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"new\.onnx\.json exists"):
        exported(plain, tmp_path / "new.onnx")
    for name, why in (("new.onnx.json/x.onnx", "not a folder"), ("folder.onnx", "it is a folder")):
        (tmp_path / "folder.onnx").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=why):
            exported(plain, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.onnx", "new.onnx.json"]


@pytest.mark.parametrize(("name", "options", "said"), [
    ("a.bin", {}, r"the name decides the format; end it in \.onnx, \.stablehlo, \.tflite, \.html, \.safetensors, or add --format"),
    ("a.bin", {"kind": "onnx"}, r"a file of --format=onnx ends in \.onnx; write --output=.*a\.onnx"),
    ("a.stablehlo", {"quantize": "int8"}, "--quantize=int8 is not for --format=stablehlo; use --format=onnx or --format=litert or --format=html"),
    ("a.onnx", {"quantize": "int4"}, "--quantize=int4: use int8, or leave it out"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused_before_any_work(plain, tmp_path, name, options, said):
    with pytest.raises(ConfigError, match=said) as error:
        exported(plain, tmp_path / name, **options)
    one_line(error)


@pytest.mark.parametrize(("kind", "extra"), [("onnx", "export"), ("litert", "litert")])
def test_a_missing_package_is_one_line(plain, tmp_path, monkeypatch, kind, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"--format={kind} takes \w+ and \w+: pip install 'cnnjax\[{extra}\]'") as error:
        exported(plain, tmp_path / f"a{FORMATS[kind].ending}")
    one_line(error)


def test_the_file_of_a_run_under_way_is_said_to_be_that(plain, tmp_path, monkeypatch):
    said = {ended: Said() for ended in (True, False)}
    for ended, progress in said.items():
        monkeypatch.setattr(RunDirectory, "has_ended", lambda self, ended=ended: ended)
        exported(plain, tmp_path / f"{ended}.safetensors", step="latest", progress=progress)
    line = f"{RunDirectory(plain.workdir)} has not come to its end; the file is of its latest checkpoint so far"
    assert line in said[False].lines and line not in said[True].lines


def test_a_file_with_other_numbers_is_not_left(cells, tmp_path, monkeypatch):
    right = FORMATS["onnx"].write

    def wrong(portable, path):
        card = dataclasses.replace(portable.card, scale=portable.card.scale * 1.01)
        right(dataclasses.replace(portable, card=card), path)

    monkeypatch.setitem(writing_lib.FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=wrong))
    with pytest.raises(
        ConfigError, match="differs from the run's by .*, and at most 1e-05 is let pass; nothing was written"
    ) as error:
        cells.export(tmp_path / "a.onnx")
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_process_cannot_load_is_not_left(cells, tmp_path, monkeypatch):
    broken = dataclasses.replace(FORMATS["onnx"], write=lambda portable, path: path.write_bytes(b"no graph"))
    monkeypatch.setitem(writing_lib.FORMATS, "onnx", broken)
    with pytest.raises(ConfigError, match="cannot be used in a process of its own .*; nothing was written") as error:
        cells.export(tmp_path / "a.onnx")
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_classifier_writes_a_file_itself(cells, tmp_path):
    assert 0 <= cells.export(tmp_path / "a.onnx") < 1e-5
    assert inference.open_exported(tmp_path / "a.onnx").card.run == "run"
    with pytest.raises(DataError, match=r"uint8 \[n, 16, 16, 3\] in \[0, 255\], not uint8 \[1, 8, 8, 3\]"):
        cells.export(tmp_path / "b.onnx", images=np.zeros((1, 8, 8, 3), np.uint8))


def test_int8_tells_its_cost(plain, tmp_path):
    made = exported(plain, tmp_path / "a.onnx", quantize="int8")
    assert made.float32["bytes"] > made.bytes and made.largest < 0.2
    assert inference.open_exported(tmp_path / "a.onnx").card.quantized == "int8"
    assert made.metrics["auc"]["difference"]["value"] == pytest.approx(
        made.metrics["auc"]["file"]["value"] - made.metrics["auc"]["run"]["value"]
    )
    text = importlib.import_module("cnnjax.pages").export_text(made.to_dict())
    assert "of float32" in text and "times as fast as float32" in text and "AUC" in text


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.onnx", b"", r"a\.onnx is not a whole file of ONNX \(.*\); export the run anew"),
    ("a.stablehlo", b"\xff" * 40, r"a\.stablehlo is not a StableHLO file of cnnjax"),
    ("a.stablehlo", b"\x02" + b"\0" * 7 + b"{}", r"a\.stablehlo is not a StableHLO file of cnnjax"),
    ("a.pt", b"", r"the name decides the format; name an exported file that ends in \.onnx or \.stablehlo"),
])  # fmt: skip
def test_other_files_are_refused_in_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said) as error:
        inference.open_exported(tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("change", [
    {"classes": ["a"]}, {"classes": ["a", "a"]}, {"positive": 2}, {"format": 2}, {"threshold": "x"}, {"preprocessing": {"size": -1, "resize": "x"}},
    {"classes": None},
])  # fmt: skip
def test_facts_of_a_stranger_are_looked_at(files, change):
    tree = inference.open_exported(files["onnx"][0]).card.to_dict()
    assert Card.from_json(json.dumps(tree), "x").to_dict() == tree
    with pytest.raises(ConfigError, match="x has facts") as error:
        Card.from_json(json.dumps({**tree, **change}), "x")
    one_line(error)


def test_facts_of_a_bfloat16_run_are_of_float32(plain, tmp_path):
    restored = inference.restore(plain.workdir, overrides={"train.precision": "bfloat16"})
    assert not inference.computes_float32(restored)
    assert inference.Classifier(restored).export(tmp_path / "a.onnx") < 1e-5


@pytest.mark.slow
def test_the_program_says_how_far_the_file_is_from_the_run(plain, tmp_path):
    place, options = f"--workdir={plain.workdir}", f"--config.data.cache_dir={plain.config.data.cache_dir}"
    done = child(["launch.py", "--mode=export", place, options, f"--output={tmp_path}/a.onnx"])
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        "in a process without cnnjax: largest difference of a probability" in said and f"written {tmp_path}/a.onnx" in said
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]
    again = child(["launch.py", "--mode=export", place, options, f"--output={tmp_path}/a.onnx"])
    assert again.returncode == 2 and "exists, and is not replaced" in again.stderr and len(again.stderr.splitlines()) == 1
    none = child(["launch.py", "--mode=export", place])
    assert none.returncode == 2 and "--mode=export needs --output=FILE, such as --output=cells.onnx" in none.stderr
