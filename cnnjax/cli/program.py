"""The program: flags to a mode, errors to one line and an exit code."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator

from cnnjax import config as config_lib
from cnnjax.cli import flags, modes, serving, studies
from cnnjax.cli.distributed import disk_problem, is_distributed
from cnnjax.cli.flags import FLAGS
from cnnjax.cli.signals import CTRL_C, StopFlag
from cnnjax.cli.workdir import default_workdir, local_workdir
from cnnjax.cpus import cpu_quota, usable_cpus
from cnnjax.errors import ConfigError, PeerError, Stopped, UserError
from cnnjax.progress import Console, printable


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name."""
    overrides = flags.parse(argv)
    if FLAGS.help or FLAGS.version:
        print(flags.version_text() if FLAGS.version else _typed(flags.help_text()))
        return
    if is_distributed():
        # Silences thirty lines of JAX about a lost process; cnnjax prints one. To be set before JAX is imported.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
    if cpu_quota():
        os.environ.setdefault(
            "NPROC", str(usable_cpus())
        )  # XLA's threads; it knows of no quota. To be set before they start.
    console = Console()
    if FLAGS.topology and FLAGS.mode != "describe":
        raise ConfigError(
            f"--topology={FLAGS.topology} is for --mode=describe, which compiles and trains nothing; leave it out here"
        )
    configured = FLAGS.mode in ("train", "crossvalidate", "explore", "describe", "lr_find")
    if configured or (FLAGS.mode == "audit" and FLAGS.config):
        _with_config(overrides, console)
    elif FLAGS.mode == "serve" and FLAGS.model:
        modes.keep_memory(overrides)
        serving.serve_file(overrides, console)
    elif FLAGS.mode == "report":
        modes.report(overrides, console)
    else:
        _with_workdir(overrides, console)


def _with_config(overrides: dict[str, str], console: Console) -> None:
    """Runs a mode that starts from a config file."""
    if not FLAGS.config:
        raise ConfigError(f"--mode={FLAGS.mode} needs --config=FILE, such as --config=configs/malaria.py:demo")
    listed = studies.listed_seeds(overrides)
    with StopFlag(modes.leave) as stop:  # a registry of choices may import JAX, which takes seconds
        config = config_lib.load_config(FLAGS.config, overrides)
    if stop():
        raise Stopped(modes.INTERRUPTED)
    place = FLAGS.workdir or default_workdir(config.name, overrides.get("data.path", ""))
    if seeds := listed or [config.seed + i for i in range(FLAGS.seeds)]:
        studies.train_seeds({seed: dataclasses.replace(config, seed=seed) for seed in seeds}, place, console)
        return
    if FLAGS.mode == "crossvalidate" and not FLAGS.workdir:
        place = f"{place}-folds"
    with local_workdir(place, config.data.cache_dir, console) as (workdir, push):
        if FLAGS.mode == "crossvalidate":
            studies.crossvalidate(config, workdir, push, console)
        elif FLAGS.mode == "train":
            modes.train(config, workdir, push, console)
        elif FLAGS.mode == "explore":
            modes.explore(config, workdir, overrides, console)
        elif FLAGS.mode == "audit":
            modes.audit(config, workdir, overrides, console)
        elif FLAGS.mode == "lr_find":
            modes.lr_find(config, workdir, overrides, console)
        else:
            modes.describe(config, workdir, console)


def _with_workdir(overrides: dict[str, str], console: Console) -> None:
    """Runs a mode that starts from a run directory."""
    if not FLAGS.workdir:
        others = {"audit": ", or --config=FILE, such as --config=configs/malaria.py:demo", "serve": ", or --model=FILE.onnx"}
        other = others.get(FLAGS.mode, "")
        raise ConfigError(f"--mode={FLAGS.mode} needs --workdir=DIR, the directory of a trained run{other}")
    with local_workdir(FLAGS.workdir, overrides.get("data.cache_dir", ""), console) as (workdir, _):
        if FLAGS.mode == "audit":
            modes.audit(None, workdir, overrides, console)
            return
        if FLAGS.mode != "evidence":  # which asks no network
            modes.keep_memory(overrides)
        chosen = {
            "eval": modes.evaluate,
            "evidence": modes.evidence,
            "export": modes.export,
            "predict": modes.predict,
            "robustness": modes.robustness,
            "serve": serving.serve,
        }
        chosen[FLAGS.mode](workdir, overrides, console)


def run(argv: list[str]) -> int:
    """Runs the program; returns its exit code, after errors that were printed as one line each."""
    try:
        with _ended_by_ctrl_c():
            main(argv)
        return 0
    except UserError as error:
        for line in str(error).split("\n"):
            print(f"error: {printable(_typed(line))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75
    except PeerError as error:
        from cnnjax import runtime

        runtime.end(error, 1)  # JAX would wait at its exit for the process that is lost
    except KeyboardInterrupt:  # of a mode that saves nothing: training and exploring have handlers of their own
        print("stopped before it was done; the same command starts it again", file=sys.stderr)
        return 75
    except OSError as error:
        if not disk_problem(error):
            raise
        print(f"error: {disk_problem(error)}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Gives an error that a library has made of Ctrl-C, as Orbax does while it reads a checkpoint, back as what it was."""
    try:
        yield
    except Exception as error:
        if CTRL_C.came:
            raise KeyboardInterrupt from error
        raise


def _typed(text: str) -> str:
    """Returns a text of the library with the command as it was typed."""
    return text.replace(flags.DOCUMENTED, flags.command())
