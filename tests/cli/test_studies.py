"""Flags of several seeds and of folds, and what the modes of several networks print."""

import re

import pytest
from training_tools import CONFIGS, child, one_line, read_rows

from cnnjax.cli import flags, studies
from cnnjax.errors import ConfigError


@pytest.fixture
def fresh():
    """The flags at their defaults, also afterwards."""

    def reset():
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()

    reset()
    yield flags.FLAGS
    reset()


def listed(*arguments: str) -> tuple[list[int], dict[str, str]]:
    overrides = flags.parse(["launch.py", *arguments])
    return studies.listed_seeds(overrides), overrides


def test_several_seeds_are_taken_out_of_the_overrides(fresh):
    assert listed("--config.seed=0,1, 5") == ([0, 1, 5], {})
    assert listed("--config.seed=3") == ([], {"seed": "3"})
    assert listed("--config.seed=3", "--seeds=2") == ([], {"seed": "3"}) and fresh.seeds == 2


@pytest.mark.parametrize(("arguments", "said"), [
    (["--config.seed=0,x"], "seed=0,x: write different whole numbers"),
    (["--config.seed=1,1"], "seed=1,1: write different whole numbers"),
    (["--config.seed=0,1", "--seeds=2"], "--seeds=2 and --config.seed=0,1 both say which seeds"),
    (["--seeds=2", "--mode=crossvalidate"], "several seeds are for --mode=train, not for --mode=crossvalidate"),
    (["--seeds=-1"], "--seeds=-1"),
    (["--fold=1"], "--fold=1 is for --mode=crossvalidate, not for --mode=train"),
    (["--fold=r0k1", "--mode=crossvalidate"], "--fold=r0k1"),
    (["--mode=cv"], "did you mean --mode=crossvalidate?"),
])  # fmt: skip
def test_wrong_seeds_and_folds_are_one_line(fresh, arguments, said):
    with pytest.raises(ConfigError) as error:
        listed(*arguments)
    assert said in one_line(error)


SMALL = ("model.channels=4", "model.convs=1", "model.padding=same", "model.dense=8", "image.size=16", "runtime.workers=1",
         "data.batch_size=8", "data.demo_cells=120", "train.epochs=1")  # fmt: skip


def launch(cache, *arguments):
    values = (f"--config.{value}" for value in (*SMALL, f"data.cache_dir={cache}"))
    return child(["launch.py", f"--config={CONFIGS / 'malaria.py'}:demo", *values, *arguments])


@pytest.mark.slow
def test_each_seed_is_a_run_on_the_same_split(cache, tmp_path):
    done = launch(cache, "--seeds=2", "--config.seed=4", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^  (4|5|mean|SD) +(\S+)", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["4", "5", "mean", "SD"]
    losses = [float(value) for _, value in rows]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, abs=1e-4)
    assert f"--compare={tmp_path}/run-seed4,{tmp_path}/run-seed5" in done.stdout
    splits = [read_rows(tmp_path / f"run-seed{seed}" / "splits.csv") for seed in (4, 5)]
    assert splits[0] == splits[1] and losses[0] != losses[1]


@pytest.mark.slow
def test_a_fold_alone_and_all_of_them_from_the_command_line(cache, tmp_path):
    arguments = ("--mode=crossvalidate", "--config.split.folds=3", f"--workdir={tmp_path / 'cv'}")
    one = launch(cache, *arguments, "--fold=1")
    assert one.returncode == 0, one.stderr
    assert "1 fold of 3 done; still to be trained: 0, 2" in one.stdout
    done = launch(cache, *arguments)
    assert done.returncode == 0, done.stderr
    assert "r0k1, 2 of 3" not in done.stdout and re.search(r"^  r0k1 +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^  accuracy +[\d.]+ +[\d.]+ to [\d.]+", done.stdout, re.MULTILINE)
    assert (tmp_path / "cv" / "report.html").exists() and f"--mode=predict --workdir={tmp_path / 'cv'}" in done.stdout
