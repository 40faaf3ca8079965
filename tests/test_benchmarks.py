"""The comparison with other trainers: it runs, refuses what differs or was measured on a busy machine, and names what is missing."""

import importlib
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from training_tools import ROOT, child

sys.path.insert(0, str(ROOT))  # the comparison is beside the package and is not installed with it
compare, depthwise, load, results, sides, tables, tasks = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("compare", "depthwise", "load", "results", "sides", "tables", "tasks")
)

TINY = ("--size=12", "--batch=8", "--seconds=0.02", "--rounds=2")


@pytest.mark.slow
def test_ours_and_plain_jax_are_compared_and_written_as_json(tmp_path):
    done = child(["-m", "benchmarks.compare", "--task=malaria", "--what=step", "--peers=cnnjax,jax", *TINY,
                  "--even-if-busy", f"--json={tmp_path}/step.json", f"--plot={tmp_path}/step.png"], JAX_NUMPY_RANK_PROMOTION="allow")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["settings"]["size"] == 12 and found["settings"]["what"] == "step"
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0)) and found["machine"]["processor"]
    machine = found["machine"]
    assert re.fullmatch(r"[0-9a-f]{12}\+?", machine["commit"] or "0" * 12)
    assert min(machine["load_before"], machine["load_after"], machine["other_cores"]) >= 0 and len(machine["others"]) <= 3
    step = found["results"]["step"]
    assert list(step) == ["cnnjax", "jax"] and all(len(values) == 2 and min(values) > 0 for values in step.values())
    ours, plain = (np.array(found["losses"][side]["training"]) for side in step)
    np.testing.assert_allclose(ours, plain, rtol=1e-3)
    assert len(set(ours)) == tasks.LAST  # it did train
    assert all(found["memory"][side]["process"] > 1e8 for side in step)
    assert {"jax", "numpy"} <= found["about"]["cnnjax"]["versions"].keys()
    assert (tmp_path / "step.png").stat().st_size > 5000
    assert "| cnnjax | " in results.markdown(found)


@pytest.mark.slow
def test_growth_is_measured_in_a_run_of_its_own(tmp_path):
    done = child(["-m", "benchmarks.compare", "--task=malaria", "--what=growth-data", "--images=300", "--batch=32",
                  "--even-if-busy", f"--json={tmp_path}/growth.json"])  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, label = json.loads((tmp_path / "growth.json").read_text()), "cnnjax, 300 images"
    assert len(found["results"]) == 4 and all(values[label][0] > 0 for values in found["results"].values())
    assert found["memory"][label]["process"] > found["memory"][label]["allocated"] > 1e8


@pytest.mark.slow
def test_pairs_of_equal_networks_are_counted():
    done = child(["-m", "benchmarks.chance", "--pairs=2", "--cells=160", "--patients=24"], JAX_NUMPY_RANK_PROMOTION="allow")
    assert done.returncode == 0, done.stderr
    assert "2 pairs, 12 patients judge each" in done.stdout and re.search(r"\d+ of 20 .*sign flips of patients", done.stdout)


def busy(seconds):
    return {"other_cores": seconds, "others": {"make": seconds}}


def test_results_of_a_busy_machine_are_refused_before_and_after_unless_asked_for(monkeypatch, capfd, tmp_path):
    assert load.problem(busy(0.1), 2) == "" and load.problem({"other_cores": None, "others": {}}, 2) == ""
    found = {"machine": {}, "results": {}}
    monkeypatch.setattr(compare, "compare", lambda flags, scratch: found)
    monkeypatch.setattr(results, "text", lambda found: "")
    given = ["--task=malaria", "--what=step", f"--json={tmp_path}/step.json"]
    for before, after, more, code in (
        ("", 0.0, [], 0),
        ("busy", 0.0, [], 2),
        ("", 0.9, [], 2),
        ("busy", 0.9, ["--even-if-busy"], 0),
    ):
        monkeypatch.setattr(load, "current", lambda cores, before=before: before)
        monkeypatch.setattr(load.Watch, "report", lambda self, after=after: busy(after))
        assert compare.main([*given, *more]) == code
        assert (tmp_path / "step.json").exists() == (code == 0)
        (tmp_path / "step.json").unlink(missing_ok=True)
        assert ("step.json is not written" in capfd.readouterr().err) == (code == 2)


def test_work_of_other_programs_is_counted_and_ones_own_is_not():
    watch = load.Watch()
    if not watch.available:
        pytest.skip("no /proc here")
    start = load.own_seconds()
    while load.own_seconds() < start + 0.5:
        pass
    report = watch.report()
    assert 0 <= report["other_cores"] <= len(os.sched_getaffinity(0)) and all(
        v <= 1.5 * 64 for v in report["others"].values()
    )
    assert os.getpid() not in {pid for pid, _ in load.processes()}


def test_the_tables_are_those_of_the_results_files():
    assert tables.main(["--check"]) == 0, "python -m benchmarks.tables writes them"


@pytest.mark.slow
def test_sides_that_compute_different_losses_are_refused(monkeypatch, capfd):
    def make_sides(flags, classes, scratch):
        settings = [tasks.Settings("malaria", flags.size, flags.batch, classes, seed=seed) for seed in (0, 1)]
        return [sides.Side(f"jax {s.seed}", "jax", s, sides.environment("jax", 1, {})) for s in settings]

    monkeypatch.setattr(compare, "make_sides", make_sides)
    assert compare.main(["--task=malaria", "--what=step", *TINY]) == 1
    errors = capfd.readouterr().err.splitlines()
    assert errors and all(line.startswith("error: ") and "of jax 0" in line and "of jax 1" in line for line in errors)


def test_losses_may_differ_by_the_tolerance_and_no_more():
    losses = {"a": {"inference": 1.0, "training": [1.0, 0.5]}, "b": {"inference": 1.0009, "training": [1.0, 0.52]}}
    assert compare.differences(losses, 1e-3) == []
    assert len(compare.differences(losses, 1e-4)) == 1
    losses["b"] = {"inference": float("nan"), "training": [1.0, 0.6]}
    assert len(compare.differences(losses, 1e-3)) == 2


@pytest.mark.parametrize(
    "change, allowed",
    [
        ("--task=mnist", "malaria, flowers, resnet18"),
        ("--what=speed", "step, epoch"),
        ("--peers=cnnjax,pytorch", "keras-tensorflow"),
        ("--precision=float16", "bfloat16"),
        ("--threads=0", "--threads="),
        ("--rounds=many", "--help"),
        ("--colour=red", "--help"),
        ("--data=no/such/folder", "a folder of images per class"),
        ("--env=OMP_NUM_THREADS=1", "PEER:NAME=VALUE"),
    ],
)
def test_a_wrong_flag_is_one_line(change, allowed, capfd):
    assert compare.main(["--task=malaria", "--what=step", change]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and allowed in errors[0]


def test_peers_that_are_not_installed_are_named_and_left_out(monkeypatch, capfd, tmp_path):
    monkeypatch.setitem(sides.NEEDS, "torch", (("no_such_module",), "pip install torch torchvision"))
    flags = compare.parse(["--task=malaria", "--what=step", "--peers=cnnjax,torch"])
    made = compare.make_sides(flags, 2, tmp_path)
    assert [side.label for side in made] == ["cnnjax"]
    assert capfd.readouterr().err == ("torch is left out: no_such_module is not installed; pip install torch torchvision\n")
    for side in made:
        side.close()


def test_bfloat16_has_our_float32_beside_it(tmp_path):
    flags = compare.parse(["--task=malaria", "--what=step", "--peers=cnnjax", "--precision=bfloat16"])
    made = compare.make_sides(flags, 2, tmp_path)
    assert [(side.label, side.settings.precision) for side in made] == [
        ("cnnjax", "bfloat16"),
        ("cnnjax, float32", "float32"),
    ]
    for side in made:
        side.close()


def test_a_side_that_fails_is_left_out_in_one_line(capfd):
    side = sides.Side(
        "jax", "jax", tasks.Settings("malaria", 12, 8, 2), {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "none"}
    )
    everyone, left_out = [side], {}
    with compare.leaving_out(side, everyone, left_out):
        side.ask("about")
    assert everyone == [] and "none" in left_out["jax"]
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("task", tasks.TASKS)
def test_weights_and_batches_are_the_same_in_every_process(task):
    spec, count = tasks.TASKS[task], 8
    settings = tasks.Settings(task, spec.size, count, spec.classes)
    again = tasks.Settings(**json.loads(settings.to_json()))
    for first, second in zip(tasks.weights(settings).values(), tasks.weights(again).values(), strict=True):
        np.testing.assert_array_equal(first, second)
    images, labels = tasks.batch(settings)
    assert images.shape == (count, spec.size, spec.size, 3) and set(labels) <= set(range(spec.classes))
    counts = {"malaria": 758_401, "flowers": 3_989_285, "resnet18": 11_181_642, "resnet50": 25_557_032}
    trained = (math.prod(shape) for name, shape in tasks.shapes(settings).items() if not name.endswith(("/mean", "/var")))
    assert sum(trained) == counts[task]


@pytest.mark.slow
def test_loaders_are_timed_and_a_missing_one_is_named(tmp_path):
    random = np.random.default_rng(0)
    for i in range(80):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"{i:02}.jpg")
    done = child(
        ["-m", "benchmarks.loaders", f"--data={tmp_path}/photos", "--images=128", "--rounds=1", "--size=32", "--step=0.001"]
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert any(re.fullmatch(r"ours +[\d,]+ images/s   waits \d+\.\d% of the time", line) for line in said)
    named = {line.split()[0] for line in said}
    assert {"torchvision", "timm", "tf_data", "tf_data_antialiased"} <= named, "measured, or left out and named"


def test_other_trainers_get_the_images_of_a_runs_split_or_say_what_is_wrong(tmp_path):
    scratch = importlib.import_module("benchmarks.scratch")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").write_bytes(b"one")
    splits = tmp_path / "splits.csv"
    splits.write_text("id,label,group,split\na/1.jpg,a,,val\n")
    assert scratch.link_images(tmp_path / "photos", splits, tmp_path / "into") == {"train": 0, "val": 1, "test": 0}
    assert (tmp_path / "into" / "val" / "a" / "a_1.jpg").read_bytes() == b"one"
    done = child(["-m", "benchmarks.scratch", "--trainer=timm", f"--run={tmp_path}", f"--data={tmp_path / 'photos' / 'a'}"])
    assert done.returncode == 2
    assert re.fullmatch(
        r"\S+/a/a: No such file or directory; --run is a run of cnnjax, --data the folder of its images\n", done.stderr
    )


def test_a_depthwise_layer_is_the_same_on_both_sides(tmp_path):
    depthwise.write("9x16x5x2", 2, str(tmp_path))
    found = {}
    for side in ("cnnjax", "ort"):
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "depthwise.py"),
            f"--side={side}",
            "--batch=2",
            f"--folder={tmp_path}",
        ]
        done = subprocess.run(command, input="9x16x5x2\n\n", capture_output=True, text=True, timeout=120, check=True, cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        found[side], taken = map(json.loads, done.stdout.splitlines())
        assert all(milliseconds > 0 for milliseconds in taken.values())
    np.testing.assert_allclose(found["cnnjax"]["forward"], found["ort"]["forward"], rtol=1e-4, atol=1e-5)
    images, weights, _ = depthwise.drawn("9x16x5x2", 2)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    first = sum(padded[0, i, j] * weights[i, j] for i in range(5) for j in range(5))  # the output in the corner
    np.testing.assert_allclose(found["cnnjax"]["forward"][:16], first, rtol=1e-4, atol=1e-5)
    assert len(found["cnnjax"]["step"]) == 64
