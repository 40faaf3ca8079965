"""Modes that train several networks: cross-validation, and one config with several seeds."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from cnnjax.cli.distributed import joined_processes
from cnnjax.cli.flags import FLAGS, command
from cnnjax.cli.modes import leave, set_up
from cnnjax.cli.signals import StopFlag
from cnnjax.cli.workdir import local_workdir
from cnnjax.errors import ConfigError
from cnnjax.progress import Console, Progress


def crossvalidate(config, workdir: Path, push: Callable[[], None], console: Console) -> None:
    """Trains a network for each fold and prints a row for each, the numbers of all together, and the next commands."""
    with StopFlag(leave) as stop:
        from cnnjax import pages
        from cnnjax.studies import crossvalidate as validate

        set_up(config)
        with joined_processes() as main:
            found = validate(config, workdir, FLAGS.fold, progress=console if main else Progress(), stop=stop, saved=push)
    if not main:
        return
    named = shlex.quote(str(FLAGS.workdir or workdir))
    if found is None:
        console.message(
            f"the numbers come with the last of them: {command()} --mode=crossvalidate --config={FLAGS.config} --workdir={named}"
        )
        return
    console.message("")
    console.message(pages.crossvalidation_text(found))
    console.message(f"\nrun      {FLAGS.workdir or workdir}: report.html (open it in a browser), eval/oof.csv (every image, by a network that has not "
                    "seen it), crossvalidation.json")  # fmt: skip
    console.message(
        f"predict  {command()} --mode=predict --workdir={named} --input=DIR --output=predictions.csv  (mean of all networks)"
    )


def listed_seeds(overrides: dict[str, str]) -> list[int]:
    """Takes several seeds out of the overrides, as in --config.seed=0,1,2, and returns them; [] for one or none.

    Raises:
        ConfigError: something else than whole numbers, one twice, or a mode that has no use for several.
    """
    text = overrides.get("seed", "")
    if not FLAGS.seeds and "," not in text:
        return []
    if FLAGS.mode != "train":
        raise ConfigError(f"several seeds are for --mode=train, not for --mode={FLAGS.mode}; give one with --config.seed=0")
    if FLAGS.seeds and "," in text:
        raise ConfigError(f"--seeds={FLAGS.seeds} and --config.seed={text} both say which seeds; leave one out")
    if FLAGS.seeds:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ConfigError(
            f"seed={text}: write different whole numbers from 0 with commas between them, such as --config.seed=0,1,2"
        )
    del overrides["seed"]
    return [int(part) for part in parts]


def train_seeds(configs: Mapping[int, object], workdir: str, console: Console) -> None:
    """Trains a run for each seed, one after the other, and prints a row for each, their mean and their spread.

    Args:
        configs: by seed.
        workdir: that of a seed is `<workdir>-seed<seed>`.
        console: hears what happens.
    """
    places, results = {seed: f"{workdir.rstrip('/')}-seed{seed}" for seed in configs}, {}
    with StopFlag(leave) as stop:
        from cnnjax import pages
        from cnnjax.commands.train import train

        set_up(next(iter(configs.values())))
        with joined_processes() as main:
            for seed, config in configs.items():
                told = console if main else Progress()
                told.message(f"\nseed {seed}: {places[seed]}")
                with local_workdir(places[seed], config.data.cache_dir, console) as (local, push):
                    results[seed] = train(config, local, progress=told, stop=stop, saved=push)
    if not main:
        return
    split = "test" if all(run.test for run in results.values()) else "val"
    classes = len(next(iter(results.values()))["classes"])
    console.message("")
    console.message(pages.seeds_table({seed: run[split] for seed, run in results.items()}, split, classes))
    runs = ",".join(shlex.quote(place) for place in places.values())
    console.message(f"\ncompare  {command()} --mode=report --compare={runs}")
