"""A finished run at work: its evaluation repeated, wherever it was moved, and predictions of files."""

import json
import os
import shutil

import numpy as np
import pytest
from pyarrow import parquet
from training_tools import Said, one_line, read_rows, tiny

import cnnjax
from cnnjax import inference, runtime
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.commands.train import train
from cnnjax.errors import DataError
from cnnjax.pages import details_text

# Evaluation


def test_evaluate_gives_the_numbers_of_the_summary(plain, tmp_path):
    before = {split: (plain.workdir / "eval" / f"{split}.csv").read_bytes() for split in ("train", "val", "test")}
    for split in before:
        result = evaluate(plain.workdir, split)
        assert result["step"] == plain.summary["best_step"]
        assert {key: result[key] for key in plain.summary[split]} == plain.summary[split]
        assert (plain.workdir / "eval" / f"{split}.csv").read_bytes() == before[split]


def test_a_directory_that_was_moved_evaluates_and_predicts(plain, cell_folder, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(plain.workdir, moved)
    try:
        assert evaluate(moved, "test")["loss"] == plain.summary["test"]["loss"]
        assert cnnjax.load(moved).predict(next(cell_folder.rglob("*.png")))[0].predicted
        assert train(plain.config, moved) == plain.summary
    finally:
        shutil.move(moved, plain.workdir)


def test_data_that_was_moved_is_named_with_an_override(plain, cell_folder, tmp_path):
    shutil.copytree(cell_folder, tmp_path / "copy")
    result = evaluate(plain.workdir, "val", overrides={"data.path": str(tmp_path / "copy")})
    assert result["loss"] == plain.summary["val"]["loss"]


# Prediction


def test_eval_predict_and_the_classifier_agree_on_every_image(plain, cell_folder, tmp_path):
    expected = {row["id"]: row for row in read_rows(plain.workdir / "eval" / "test.csv")}
    paths = [str(cell_folder / id) for id in expected]
    done, bad = predict(plain.workdir, paths, tmp_path / "out.csv")
    assert (done, bad) == (len(paths), 0)
    rows = {row["path"]: row for row in read_rows(tmp_path / "out.csv")}
    assert list(next(iter(rows.values()))) == ["path", "predicted", "p_Parasitized", "p_Uninfected", "error"]
    predictions = cnnjax.load(plain.workdir).predict(paths)
    assert [p.path for p in predictions] == paths
    alone = cnnjax.load(plain.workdir).predict(paths[0])[0]
    for prediction, (id, row) in zip(predictions, expected.items(), strict=True):
        written = rows[str(cell_folder / id)]
        assert row["predicted"] == written["predicted"] == prediction.predicted
        for name, p in prediction.probabilities.items():
            assert float(row[f"p_{name}"]) == pytest.approx(p, abs=1e-5)
            assert float(written[f"p_{name}"]) == pytest.approx(p, abs=1e-5)
    assert alone.probabilities == pytest.approx(predictions[0].probabilities, abs=1e-5)


def test_a_broken_file_is_a_row_with_the_reason(plain, cell_folder, tmp_path):
    good = sorted(cell_folder.rglob("*.png"))[0]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "a.png").write_bytes(good.read_bytes())
    (inputs / "b.png").write_bytes(good.read_bytes()[:100])
    (inputs / "c.png").write_bytes(b"")
    (inputs / "d.jpg").write_text("no image")
    (inputs / "d.txt").write_text("no image")
    (inputs / "Thumbs.db").write_text("no image")
    (inputs / "e.png").write_bytes(good.read_bytes())
    said = Said()
    assert predict(plain.workdir, [str(inputs)], tmp_path / "out.csv", progress=said) == (2, 3)
    assert said.lines == ["1 file is not a picture, by name, and left out; name one itself to have it read"]
    rows = read_rows(tmp_path / "out.csv")
    assert [os.path.basename(row["path"]) for row in rows] == ["a.png", "b.png", "c.png", "d.jpg", "e.png"]
    for row in rows[1:4]:
        assert row["error"] and not row["predicted"] and not row["p_Parasitized"]
    assert not rows[0]["error"] and rows[0]["p_Parasitized"] == rows[4]["p_Parasitized"]
    broken = cnnjax.load(plain.workdir).predict([inputs / "b.png"])[0]
    assert broken.error == rows[1]["error"] and broken.probabilities == {}


def test_any_name_of_a_file_has_a_row_that_a_spreadsheet_does_not_run(plain, cell_folder, tmp_path, monkeypatch):
    good = sorted(cell_folder.rglob("*.png"))[0].read_bytes()
    names = [os.fsdecode(b"caf\xe9.png"), "=1+1.png", "-x.png", "a,b\n.png", "ümlaut.png"]
    monkeypatch.chdir(tmp_path)
    try:
        for name in names:
            (tmp_path / name).write_bytes(good)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert predict(plain.workdir, names, tmp_path / "out.csv") == (5, 0)
    written = {row["path"] for row in read_rows(tmp_path / "out.csv")}
    assert written == {"caf\\xe9.png", "'=1+1.png", "'-x.png", "a,b\n.png", "ümlaut.png"}


def test_a_split_that_was_edited_is_refused_in_evaluation(plain, tmp_path):
    copy = shutil.copytree(plain.workdir, tmp_path / "copy")
    text = (copy / "splits.csv").read_text()
    (copy / "splits.csv").write_text(text.replace(",train", ",T").replace(",test", ",train").replace(",T", ",test"))
    with pytest.raises(DataError, match="is not the split of the checkpoint at step .*restore the file") as error:
        evaluate(copy, "test")
    one_line(error)


def test_files_of_which_none_can_be_read_are_one_line_and_no_table(plain, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError, match=r"of 2 files none could be read \(.*b\.png: .*--input=") as error:
        predict(plain.workdir, [str(tmp_path)], tmp_path / "out.csv")
    one_line(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_an_output_that_exists_is_not_overwritten(plain, cell_folder, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(DataError, match="exists; replace it with --overwrite, or name another --output=FILE") as error:
        predict(plain.workdir, [str(cell_folder)], output)
    one_line(error)
    assert output.read_text() == "mine"
    predict(plain.workdir, [str(cell_folder)], output, overwrite=True)
    assert len(read_rows(output)) == 96
    with pytest.raises(DataError, match="--input=none: no such file"):  # which is to be put right first
        predict(plain.workdir, ["none"], output)


@pytest.mark.parametrize("ending", ["tsv", "parquet", "jsonl"])
def test_the_ending_of_the_output_is_its_format(plain, cell_folder, tmp_path, ending):
    file = next(cell_folder.rglob("*.png"))
    predict(plain.workdir, [str(file)], tmp_path / "out.csv")
    predict(plain.workdir, [str(file)], tmp_path / f"out.{ending}")
    (expected,), path = read_rows(tmp_path / "out.csv"), tmp_path / f"out.{ending}"
    if ending == "parquet":
        (found,) = parquet.read_table(path).to_pylist()
    else:
        text = path.read_text()
        found = (
            json.loads(text)
            if ending == "jsonl"
            else dict(zip(*(line.split("\t") for line in text.splitlines()), strict=True))
        )
    assert {name: str(value) for name, value in found.items()} == expected


def test_another_ending_is_one_line(plain, cell_folder, tmp_path):
    with pytest.raises(DataError) as error:
        predict(plain.workdir, [str(cell_folder)], tmp_path / "out.xlsx")
    assert one_line(error).endswith("end it in .csv, .tsv, .parquet, .jsonl")


def test_an_archive_predicts_as_its_folder(plain, cell_folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "cells"), "zip", cell_folder)
    predict(plain.workdir, [archive], tmp_path / "zip.csv")
    predict(plain.workdir, [str(cell_folder)], tmp_path / "folder.csv")
    one, other = (
        {row["path"].rpartition("/")[2]: row["p_Parasitized"] for row in read_rows(tmp_path / name)}
        for name in ("zip.csv", "folder.csv")
    )
    assert one == other and len(one) == 96


def test_no_predictions_of_no_files(plain):
    assert cnnjax.load(plain.workdir).predict([]) == []


@pytest.mark.slow
def test_more_than_two_classes_from_training_to_prediction(make_folder, tmp_path):
    folder = make_folder(tmp_path / "flowers", ("a", "b", "c", "d", "e", "f"), 12)
    config = tiny(folder, tmp_path / "cache", data__positive="", data__group="", split__method="stratified", train__epochs=2)
    summary = train(config, tmp_path / "run")
    assert set(summary["test"]) == {
        "images",
        "loss",
        "balanced_accuracy",
        "accuracy",
        "majority",
        "macro_auc",
        "top5_accuracy",
    }
    result = evaluate(tmp_path / "run", "test")
    assert result["classes"] == list("abcdef") and len(result["confusion"]) == 6 and "positive" not in result
    row = read_rows(tmp_path / "run" / "eval" / "test.csv")[0]
    prediction = cnnjax.load(tmp_path / "run").predict(folder / row["id"])[0]
    assert {f"p_{k}": pytest.approx(v, abs=1e-5) for k, v in prediction.probabilities.items()} == {
        k: float(v) for k, v in row.items() if k.startswith("p_")
    }


@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_logits_do_not_depend_on_how_many_images_are_asked_at_once(plain, count):
    engine = inference.restore(plain.workdir).engine
    images = np.random.default_rng(0).integers(0, 256, (13, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(engine.logits(images[:count]), engine.logits(images)[:count], atol=1e-5)
    rows = np.arange(13)[:count]
    np.testing.assert_allclose(engine.logits_of_rows(images, rows, 4), engine.logits(images)[:count], atol=1e-5)


@pytest.mark.parametrize("size, batch_size, expected", [(32, 64, 256), (180, 32, 64), (224, 64, 64), (8, 5, 20)])
def test_evaluation_takes_larger_batches_up_to_a_number_of_pixels_whatever_the_split(size, batch_size, expected):
    taken = []

    def run(model, images):
        taken.append(images.shape[0])
        return images[:, 0, 0, :1].astype(np.float32)

    engine = inference.Engine(run, {}, runtime.mesh(1))
    images = np.zeros((expected + 2, size, size, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(images)) % 256
    for rows in (np.arange(3), np.arange(len(images))[::-1]):
        np.testing.assert_array_equal(engine.logits_of_rows(images, rows, batch_size)[:, 0], rows % 256)
    assert taken == [expected] * 3


# Another labelled set


def test_another_set_is_evaluated_beside_the_test_split_with_classes_by_name(plain, make_folder, tmp_path):
    copy = shutil.copytree(plain.workdir, tmp_path / "copy")
    before = (copy / "eval" / "test.json").read_bytes()
    other = make_folder(tmp_path / "Clinic B", ("uninfected", "Parasitized", "Smudges"), 6)
    said = Said()
    result = evaluate(copy, data=other, progress=said)
    assert result["classes"] == ["Parasitized", "Uninfected"] and result["images"] == 12 and result["split"] == "data"
    assert said.lines == ["the network does not know Smudges; 6 images left out"]
    assert f"data       12  {result['loss']:.4f}" in details_text(result)
    assert (copy / "eval" / "test.json").read_bytes() == before
    ids = {row["id"] for row in read_rows(copy / "eval" / "data-Clinic_B.csv")}
    assert len(ids) == 12 and all(id.startswith(("uninfected/", "Parasitized/")) for id in ids)
    cnnjax.write_report(copy)
    assert "data-Clinic_B" in (copy / "report.html").read_text()


def test_images_of_the_training_in_another_set_are_told(plain, cell_folder, tmp_path):
    copy = shutil.copytree(plain.workdir, tmp_path / "copy")
    said = Said()
    result = evaluate(copy, data=cell_folder, progress=said)
    train = plain.summary["train"]["images"]
    assert said.lines[-1].startswith(f"{train} images of {result['images']} are among the training images, pixel for pixel")


def test_a_set_without_a_class_in_common_is_one_line(plain, make_folder, tmp_path):
    other = make_folder(tmp_path / "other", ("cat", "dog"), 2)
    with pytest.raises(DataError, match="has the classes cat, dog, the network Parasitized, Uninfected; rename") as error:
        evaluate(plain.workdir, data=other)
    one_line(error)
