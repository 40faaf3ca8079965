"""Audits of folders: what was planted is found, said in a line, shown on a page, and refused where that is asked for."""

import shutil

import numpy as np
import pytest
from drawn_images import write_folder
from page_tools import text
from PIL import Image, ImageEnhance
from training_tools import Said, one_line, read_rows, tiny

import cnnjax
from cnnjax import audit, data
from cnnjax.commands.audit import audit as audited
from cnnjax.data import dataset
from cnnjax.errors import CheckpointError, DataError
from cnnjax.runs import RunDirectory

A, B = "Parasitized/C1P1thinF_IMG_x_cell_1.png", "Uninfected/C2P1thinF_IMG_x_cell_38.png"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Drawn cells with a copy in another group's name, a brighter copy under another label, and a mark in one class's corner."""
    folder = write_folder(tmp_path_factory.mktemp("planted"), ("Parasitized", "Uninfected", "blank"), per_class=36)
    shutil.rmtree(folder / "blank")  # cells without a spot, which do look the same
    for path in (folder / "Uninfected").iterdir():
        with Image.open(path) as image:
            image.paste((255, 220, 0), (0, 0, 6, 6))
            image.save(path)
    with Image.open(folder / A) as image:
        image.save(folder / "Parasitized/C12P1thinF_IMG_x_cell_900.png", compress_level=1)
    with Image.open(folder / B) as image:
        ImageEnhance.Brightness(image).enhance(1.1).save(folder / "Parasitized/C11P1thinF_IMG_x_cell_901.png")
    return folder


def settings(planted, cache, **overrides):
    return tiny(planted, cache, image__size=32, **overrides)


def test_a_split_keeps_the_same_picture_on_one_side_and_says_so(planted, cache, tmp_path):
    said = Said()
    found = dataset.prepare(settings(planted, cache), tmp_path, said, freeze=False)
    assert "  2 pairs of the same picture are kept on one side (split.keep_duplicates_together)" in said.lines
    findings, note = audit.look(found, turns=False)
    assert note == "" and [finding.kind for finding in findings] == ["labels"]
    assert findings[0].text.startswith("1 picture under several labels, such as Parasitized/C11P1") and B in findings[0].text


def test_a_leak_is_a_warning_or_refused(planted, cache, tmp_path):
    config = settings(planted, cache, split__method="stratified", split__seed=3, split__keep_duplicates_together=False,
                      audit__stop=True)  # fmt: skip
    said = Said()
    with pytest.raises(DataError) as error:
        cnnjax.train(config, tmp_path / "run", progress=said)
    line = one_line(error)
    assert "on several sides of the split, such as" in line and line.endswith(
        "--config.audit.stop=False trains nevertheless"
    )
    assert any(line.startswith(("1 picture on several sides", "2 pictures on several sides")) for line in said.lines)
    assert not (tmp_path / "run").exists()


def test_groups_on_several_sides_are_named(planted, cache, tmp_path):
    found = dataset.prepare(settings(planted, cache, split__method="stratified"), tmp_path, Said(), freeze=False)
    leak = [finding for finding in audit.groups(found) if finding.is_leak]
    assert leak[0].count > 1 and "groups on several sides of the split, such as C" in leak[0].text


def test_the_page_and_its_tables_have_what_was_planted(planted, cache, tmp_path):
    run = RunDirectory(tmp_path / "run")
    ids = [f"Uninfected/{path.name}" for path in sorted((planted / "Uninfected").iterdir())]
    flipped = [(id, "C1", "Uninfected", "Parasitized", 0.9, 0.1) if i == 5 else (id, "C1", "Uninfected", "Uninfected", 0.1, 0.9)
               for i, id in enumerate(ids)]  # fmt: skip
    own = [(A, "C1", "Parasitized", "Parasitized", 0.8, 0.2)]
    run.write_rows(
        run.predictions("test"), ("id", "group", "label", "predicted", "p_Parasitized", "p_Uninfected"), [*flipped, *own]
    )
    found = audited(settings(planted, cache), run, labels=True, progress=Said())
    corners = next(probe for probe in found.probes if probe.name.startswith("corners"))
    assert corners.auc.value > 0.95 and corners.severity == audit.SERIOUS
    pairs = read_rows(run.audit_table("pairs"))
    assert list(pairs[0]) == list(audit.PAIRS)
    assert {(row["id_a"], row["kind"]) for row in pairs if row["kind"] != "look alike"} == {
        (A.replace("C1P1", "C12P1").replace("cell_1", "cell_900"), "exact"),
        ("Parasitized/C11P1thinF_IMG_x_cell_901.png", "same picture")}  # fmt: skip
    assert len(read_rows(run.audit_table("shortcuts"))) == len(found.probes) == 7
    assert [row["id"] for row in read_rows(run.audit_table("labels"))] == [ids[5]] and found.suspects == 1
    words = text(found.page)
    for part in ("1 pictures under several labels", "0 pictures on several sides", "Uninfected, or Parasitized?", "serious",
                 "own AUC is", "The class is told without the object", "nothing was relabelled"):  # fmt: skip
        assert part in words, part
    assert found.page.read_text().count("data:image/") >= 4


def test_audits_of_tiny_and_single_sets_give_reasons(cache, tmp_path):
    labels, groups = np.array([0, 0, 1, 1], np.int32), np.array(["", "", "", ""])
    sample = audit.Sample(np.arange(4), labels, audit_groups(groups), "")
    found = audit.probe("mean colour", np.arange(4.0)[:, None], sample)
    assert found.auc.low is None and "too few for an interval" in found.auc.note
    one = audit.Sample(np.arange(4), labels, audit_groups(np.array(["g"] * 4)), "")
    assert audit.probe("mean colour", np.arange(4.0)[:, None], one).auc.note == "a single group: no probe"
    alone = audit.Sample(np.arange(2), labels[:2], audit_groups(groups[:2]), "")
    assert "no probe" in audit.probe("mean colour", np.zeros((2, 1)), alone).auc.note
    with pytest.raises(CheckpointError, match="name a run directory"):
        audited(None, tmp_path / "nowhere")


def audit_groups(names):
    from cnnjax.metrics import Groups

    return Groups.of(names)


def test_a_probe_of_a_number_without_meaning_is_near_chance():
    rng = np.random.default_rng(0)
    sample = audit.Sample(
        np.arange(300), rng.integers(0, 3, 300), audit_groups(np.array([f"g{i % 20}" for i in range(300)])), ""
    )
    found = audit.probe("noise", rng.normal(size=(300, 2)), sample)
    assert found.severity == audit.FINE and found.auc.low < 0.5 < found.auc.high and found.chance == pytest.approx(1 / 3)


def test_digits_and_drawn_cells_have_no_false_pair(cache, tmp_path):
    for file, changed in (("digits.py", {}), ("malaria.py:demo", {"data.demo_cells": 200})):
        config = cnnjax.load_config(f"configs/{file}", {"data.cache_dir": str(cache), **changed})
        found = dataset.prepare(config, tmp_path / file, Said(), freeze=False)
        assert len(data.find_copies(found.images, found.used).same.pairs) == 0
