"""Runs that are compared: on the same images, on some of them, on others, with several seeds."""

import json

import pytest
from page_tools import text
from run_files import tiny_rows, write_run
from training_tools import Said, one_line

import cnnjax
from cnnjax import evidence
from cnnjax.errors import CheckpointError

A, B = tiny_rows(), tiny_rows("tiny_b.csv")


@pytest.fixture
def pair(tmp_path):
    """The two reference runs, which differ in their augmentation."""
    return {"a": write_run(tmp_path / "a", A), "b": write_run(tmp_path / "b", B, augment__rotation=15.0)}


def test_two_runs_are_compared_on_the_page_on_the_screen_and_in_json(pair, tmp_path):
    said = Said()
    page = cnnjax.compare_runs([run.path for run in pair.values()], progress=said)
    answer = ("no difference in accuracy can be told between a and b: b has +0.0333 (-0.0682 to 0.1349; 12 patients, 3 of them differ), "
              "p = 0.750 by sign flips of patients; with fewer than 6 patients that differ none could be")  # fmt: skip
    words = text(page)
    assert said.lines == [answer] and answer.removeprefix("no ") in words and words.index("Answer") < words.index("Numbers")
    assert "may be the seed&#39;s luck" in words and "On 60 test images of 12 patients; intervals are at 95%." in words
    assert "4 images are right in b alone, 2 in a alone." in words and "a is against" not in words
    numbers = json.loads(page.with_suffix(".json").read_text())
    found = numbers["pairs"][0]
    assert numbers["answers"] == [answer] and (found["a"], found["b"], found["lost"], found["gained"]) == ("a", "b", 2, 4)
    assert found["metrics"]["accuracy"]["score"]["low"] == pytest.approx(-0.0681966910935280)
    assert len(found["flips"]) == 6 and found["better"] + found["worse"] + found["equal"] == 12


OTHER = {"pos": "neg", "neg": "pos"}


def answered(wrong=()):
    """Rows of a run that has all images right but those of `wrong`."""
    called = [(row, OTHER[row[2]] if row[0] in wrong else row[2]) for row in A]
    return [[*row[:3], name, *(("0.9", "0.1") if name == "pos" else ("0.1", "0.9"))] for row, name in called]


def test_a_better_run_is_called_better_in_either_order(tmp_path):
    worse = {row[0] for k, row in enumerate(A) if k % 3 == 0}
    runs = {
        "good": write_run(tmp_path / "good", answered()),
        "bad": write_run(tmp_path / "bad", answered(worse), seed=1, train__epochs=5),
    }
    for names in (("good", "bad"), ("bad", "good")):
        found = evidence.compare({name: runs[name] for name in names})
        assert (
            found.answers[0].startswith("good is better than bad by 0.3333 in accuracy (0.")
            and "12 patients" in found.answers[0]
        )
        assert "p < 0.001 by sign flips of patients" in found.answers[0]


def test_several_runs_are_compared_in_pairs_with_holms_probabilities(pair, tmp_path):
    alone = evidence.compare(pair).pairs["a", "b"].metrics["log_loss"].p
    worse = {row[0] for k, row in enumerate(A) if k % 3 == 0}
    pair["c"] = write_run(tmp_path / "c", answered(worse), train__epochs=5)
    found = evidence.compare(pair)
    assert [*found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")] and len(found.answers) == 3
    assert found.pairs["a", "b"].metrics["log_loss"].p >= alone
    assert "p holds for all pairs together (Holm)" in text(cnnjax.compare_runs([run.path for run in pair.values()]))


def test_runs_of_one_config_with_several_seeds_are_one_table(tmp_path):
    runs = {
        name: write_run(tmp_path / name, rows, seed=seed)
        for seed, (name, rows) in enumerate({"s0": A, "s1": B, "s2": A}.items())
    }
    found = evidence.compare(runs)
    assert not found.pairs and set(found.seeds) >= {"accuracy", "auc", "log_loss", "brier", "sensitivity"}
    score = found.seeds["accuracy"]
    assert score.values == pytest.approx([46 / 60, 48 / 60, 46 / 60]) and score.mean_low < score.mean < score.mean_high
    assert found.answers[0].startswith(
        "3 trainings of one config with the seeds 0, 1, 2: accuracy 0.7778 on average, standard deviation 0.0"
    )
    page = cnnjax.compare_runs([run.path for run in runs.values()])
    assert "SD between seeds" in text(page) and "seed" in json.loads(page.with_suffix(".json").read_text())["answers"][0]


def test_few_missing_images_are_said_and_many_are_refused(pair, tmp_path):
    some = {"a": pair["a"], "b": write_run(tmp_path / "some", B[:57])}
    found = evidence.compare(some)
    assert found.notes == ["57 of 60 test images are in all runs; the others are left out"] and found.images == 57
    half = evidence.compare({"a": pair["a"], "b": write_run(tmp_path / "half", B[:30])})
    assert half.reason == "only 30 of 60 test images of a are test images of all" and not half.pairs
    page = cnnjax.compare_runs([tmp_path / "a", tmp_path / "half"])
    assert "No paired test: only 30 of 60" in text(page) and "test accuracy" in text(page)


def test_an_image_in_another_part_is_refused_with_the_count(pair):
    run = pair["b"]
    run.write_rows(run.predictions("test"), ("id", "group", "label", "predicted", "p_pos", "p_neg"), B[:58])
    parts = [(row[0], row[2], row[1], "train" if k >= 58 else "test") for k, row in enumerate(B)]
    run.write_rows(run.splits, ("id", "label", "group", "split"), parts)
    assert "2 test images of the others are not in the test part of b, which has 58" in evidence.compare(pair).reason


def test_another_label_is_one_line_with_the_count(pair, tmp_path):
    changed = [[*row[:2], OTHER[row[2]] if k < 2 else row[2], *row[3:]] for k, row in enumerate(B)]
    pair["c"] = write_run(tmp_path / "c", changed)
    with pytest.raises(CheckpointError, match="2 images of 60 have another label in c than in a, such as 'img01'") as error:
        evidence.compare(pair)
    one_line(error)


def test_classes_in_another_order_are_the_same_classes(pair, tmp_path):
    turned = [[*row[:4], row[5], row[4]] for row in B]
    other = {"a": pair["a"], "b": write_run(tmp_path / "turned", turned, ("neg", "pos"), augment__rotation=15.0)}
    one, two = evidence.compare(pair), evidence.compare(other)
    assert two.notes == ["the positive class is that of a, pos"]
    assert two.pairs["a", "b"].to_dict() == one.pairs["a", "b"].to_dict()


def test_other_classes_and_missing_evaluations_have_a_reason(pair, tmp_path):
    third = [[*row, "0.0"] for row in B]
    assert (
        "c has pos, neg, odd"
        in evidence.compare({**pair, "c": write_run(tmp_path / "c", third, ("pos", "neg", "odd"))}).reason
    )
    on_val = {**pair, "d": write_run(tmp_path / "d", B, split="val")}
    assert "a was judged on test; b was judged on test; d was judged on val" in evidence.compare(on_val).reason
    pair["b"].predictions("test").unlink()
    assert "b has no evaluation with a row for each image" in evidence.compare(pair).reason


def test_images_without_groups_are_compared_by_mcnemar(tmp_path):
    plain = [[[i, "", *rest] for i, _, *rest in rows] for rows in (A, B)]
    runs = {
        name: write_run(tmp_path / name, rows, data__group="", split__method="stratified", train__epochs=k + 1)
        for k, (name, rows) in enumerate(zip("ab", plain, strict=True))
    }
    found = evidence.compare(runs)
    assert found.groups == 0 and "60 images, 6 of them differ), p = 0.688 by McNemar's test" in found.answers[0]
    assert "each independent of the others" in text(cnnjax.compare_runs([tmp_path / "a", tmp_path / "b"]))


def test_sets_that_are_too_small_have_a_reason(tmp_path):
    for count in (1, 2, 9):
        runs = {
            name: write_run(tmp_path / f"{name}{count}", rows[:count], train__epochs=k + 1)
            for k, (name, rows) in enumerate((("a", A), ("b", B)))
        }
        found = evidence.compare(runs)
        assert "no interval" in found.answers[0] and found.pairs["a", "b"].metrics["accuracy"].p == 1.0
        assert "NaN" not in cnnjax.compare_runs([run.path for run in runs.values()]).with_suffix(".json").read_text()


def test_numbers_replace_nothing_else(pair, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    for name in ("mine.html", "page.json"):
        with pytest.raises(CheckpointError, match="something else; name a page that ends in .html") as error:
            cnnjax.compare_runs([run.path for run in pair.values()], tmp_path / name)
        one_line(error)
    assert (tmp_path / "mine.json").read_text() == "mine"
