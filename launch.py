"""Command line of cnnjax.

    python launch.py --config=configs/malaria.py                 train (and continue) a run
    python launch.py --mode=describe --config=configs/malaria.py show config, network and data plan
    python launch.py --mode=explore --config=configs/malaria.py  the data and its augmentation as a page
    python launch.py --mode=report --workdir=runs/malaria        a run as a page; --compare=runs/a,runs/b several
    python launch.py --mode=eval --workdir=runs/malaria          evaluate it
    python launch.py --mode=predict --workdir=runs/malaria --input='cells/*.png' --output=predictions.csv

Any value of the config is set with --config.section.key=value. Exit codes: 0 done, 2 something to put right (one
line says what), 75 stopped by a signal with all finished work saved, 130 a second Ctrl-C did not wait for that, 1 another
process of the run is gone.
"""  # fmt: skip

import os
import signal

if __name__ == "__main__":  # until somebody listens there is nothing to save, and the imports take their time
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(75))

import contextlib
import errno
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from cnnjax.config import tree as config_lib
from cnnjax.errors import CheckpointError, ConfigError, DataError, PeerError, Stopped, UserError
from cnnjax.progress import Console, Progress, counted, duration
from cnnjax.runs import remote
from cnnjax.runtime.signals import StopFlag

INTERRUPTED = "interrupted; the same command continues from the last checkpoint, if there is one"
MODES = ("train", "explore", "report", "eval", "predict", "describe")

FLAGS = flags.FlagValues()
flags.DEFINE_string("config", "", "config file, with a variant after a colon: configs/malaria.py:demo", flag_values=FLAGS)
flags.DEFINE_enum("mode", "train", MODES, "what to do", flag_values=FLAGS)
flags.DEFINE_string("workdir", "", "run directory; default runs/<config name>[-<variant>]", flag_values=FLAGS)
flags.DEFINE_string("split", "test", "eval: train, val or test", flag_values=FLAGS)
flags.DEFINE_string("step", "best", "eval, predict: best, latest or the number of a kept checkpoint", flag_values=FLAGS)
flags.DEFINE_multi_string("input", [], "predict: image file, folder or quoted glob; may be repeated", flag_values=FLAGS)
flags.DEFINE_string(
    "output", "", "predict: CSV file to write (predictions.csv); report: the page (report.html)", flag_values=FLAGS
)
flags.DEFINE_list("compare", [], "report: run directories to lay side by side: runs/a,runs/b", flag_values=FLAGS)
flags.DEFINE_boolean("distributed", None, "train, eval: be one of several processes, found from the environment; default: where "
                     "that of Slurm, Open MPI or Cloud TPU names several", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string(
    "coordinator", "", "train, eval: HOST:PORT of process 0, where nothing is to be found", flag_values=FLAGS
)
flags.DEFINE_integer("num_processes", 0, "with --coordinator: how many processes there are", flag_values=FLAGS)
flags.DEFINE_integer("process_id", -1, "with --coordinator: which of them this is, from 0", flag_values=FLAGS)
flags.DEFINE_boolean("help", False, "show this text and the config's keys", short_name="h", flag_values=FLAGS)


def parse(argv: list[str]) -> dict[str, str]:
    """Parses the flags; returns the overrides of `--config.section.key=value`. Raises ConfigError."""
    overrides, rest = {}, argv[:1]
    arguments = iter(argv[1:])
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{argument} has no value; write {argument}=VALUE")
        overrides[key] = value
    try:
        left = FLAGS(rest)[1:]
    except flags.Error as error:
        raise ConfigError(f"{' '.join(str(error).split())}; python launch.py --help lists the flags") from None
    if left:
        flag = "mode" if left[0] in MODES else "input"
        raise ConfigError(f"what is {left[0]!r}? every argument is a flag, such as --{flag}={left[0]}")
    for key in ("data.path", "data.cache_dir"):
        if overrides.get(key) and not remote.is_remote(overrides[key]):
            overrides[key] = os.path.abspath(os.path.expanduser(overrides[key]))
    return overrides


def main(argv: list[str]) -> None:
    """Does what the command line asks."""
    overrides = parse(argv)
    if FLAGS.help:
        notes = config_lib.notes()
        keys = "\n".join(f"  --config.{key}={value!r}\n      {notes[key]}"
                         for key, value in config_lib.flatten(config_lib.default()))  # fmt: skip
        presets = "\n".join(f"  --config.augment={name}\n      {', '.join(f'{k}={v}' for k, v in values.items()) or 'all off'}"
                            for name, values in config_lib.PRESETS.items())  # fmt: skip
        print(
            f"{__doc__}\n{FLAGS.get_help()}\nconfig keys and their defaults:\n{keys}\n\npresets of augmentation:\n{presets}"
        )
        return
    if _several():
        # In place of thirty lines of JAX about a lost process, one of ours. To be set before JAX is imported.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
    console = Console()
    if FLAGS.mode in ("train", "explore", "describe"):
        if not FLAGS.config:
            raise ConfigError(f"--mode={FLAGS.mode} needs --config=FILE, such as --config=configs/malaria.py:demo")
        config = config_lib.load_config(FLAGS.config, overrides)
        with _local(FLAGS.workdir or f"runs/{config.name}", config.data.cache_dir, console) as (workdir, push):
            if FLAGS.mode == "train":
                _train(config, workdir, push, console)
            elif FLAGS.mode == "explore":
                _explore(config, workdir, overrides, console)
            else:
                _describe(config, workdir, console)
        return
    if FLAGS.mode == "report":
        _report(overrides, console)
        return
    if not FLAGS.workdir:
        raise ConfigError(f"--mode={FLAGS.mode} needs --workdir=DIR, the directory of a trained run")
    with _local(FLAGS.workdir, overrides.get("data.cache_dir", ""), console) as (workdir, _):
        (_eval if FLAGS.mode == "eval" else _predict)(workdir, overrides, console)


@contextlib.contextmanager
def _local(workdir: str, cache_dir: str, console: Console) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A run directory as a path, and what copies it to where it belongs when it is an address such as gs://bucket/run."""
    if not remote.is_remote(workdir):
        yield Path(workdir), lambda: None
        return
    if _several():
        raise ConfigError(f"--workdir={workdir}: several processes need a directory that all hosts see; mount the bucket")
    mirror = remote.Mirror(workdir, Path(cache_dir or config_lib.default().data.cache_dir).expanduser())
    mirror.pull()

    def push() -> None:
        try:
            mirror.push()
        except DataError as error:  # the next one may succeed, and the last one must
            console.warn(str(error))

    try:
        yield mirror.local, push
    finally:
        mirror.push()


@contextlib.contextmanager
def _processes() -> Iterator[bool]:
    """Joins the other processes of this run, where there are any; yields whether this is the one that reports."""
    if not _several():
        yield True
        return
    if FLAGS.coordinator and (FLAGS.num_processes < 1 or not 0 <= FLAGS.process_id < FLAGS.num_processes):
        raise ConfigError(f"--coordinator={FLAGS.coordinator} needs --num_processes=N and --process_id=0 ... N-1; given are "
                          f"{FLAGS.num_processes} and {FLAGS.process_id}")  # fmt: skip
    from cnnjax.runtime import processes as runtime

    runtime.connect(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    with runtime.readable_loss():
        try:
            yield runtime.is_main()
        except UserError as error:
            runtime.disconnect(error)
            raise
        except OSError as error:
            if _disk(error):
                runtime.disconnect(UserError(_disk(error)))
            raise
        except (Stopped, PeerError):  # as all others do, at the same place
            runtime.disconnect()
            raise
        runtime.disconnect()


def _several() -> bool:
    """Whether this is one of several processes: by the flags, else by the environment."""
    if FLAGS.distributed is not None:
        return FLAGS.distributed
    if FLAGS.coordinator:
        return True
    get = os.environ.get
    counts = [get("OMPI_COMM_WORLD_SIZE", "1"), get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in os.environ else "1"]
    hosts = get("TPU_WORKER_HOSTNAMES", "")
    return (
        any(count.isdigit() and int(count) > 1 for count in counts)
        or "," in hosts
        or "JAX_COORDINATOR_ADDRESS" in os.environ
    )


def _train(config, workdir: Path, push: Callable[[], None], console: Console) -> None:
    with StopFlag(_leave) as stop:  # before the imports: they take seconds
        from cnnjax.pages import tables
        from cnnjax.runtime import processes as runtime
        from cnnjax.training.loop import train

        runtime.keep_compiled(config.data.cache_dir)
        runtime.keep_memory(config)
        if not _several() and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            runtime.divide_cpu(config)
        with _processes() as main:
            summary = train(config, workdir, progress=console if main else Progress(), stop=stop, saved=push)
    if not main:
        return
    shown = FLAGS.workdir or workdir
    console.message("")
    patience = counted(config.train.patience, "epoch")
    why = f"no lower val_loss for {patience}" if summary["stopped"] == "early" else "all epochs done"
    console.message(f"{counted(summary['epochs'], 'epoch')} in {duration(summary['seconds'])} ({why}); the numbers at the best step, "
                    f"{summary['best_step']}:")  # fmt: skip
    console.message(tables.numbers_table(summary))
    console.message("")
    split = "test" if summary["test"] else "val"
    console.message(f"time     {tables.time_text(summary)}")
    console.message(f"run      {shown}: report.html (open it in a browser), curves.png, history.csv, eval/{split}.csv")
    named = shlex.quote(str(shown))
    console.message(f"evaluate python launch.py --mode=eval --workdir={named} --split={split}")
    console.message(f"predict  python launch.py --mode=predict --workdir={named} --input=DIR --output=predictions.csv")


def _stop_anywhere() -> None:
    """What Ctrl-C does where nothing is to be saved. Not before the imports: in one of them the exception could be forgotten."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _describe(config, workdir: Path, console: Console) -> None:
    from cnnjax.commands.describe import describe

    _stop_anywhere()
    console.message(describe(config, workdir, progress=console))


def _leave() -> None:
    """Ends the process at once. An exception might surface in a callback of JAX, where it is printed and forgotten."""
    shown = "\x1b[?25h" if os.isatty(1) else ""  # progress bars hide the cursor
    os.write(2, f"{shown}{INTERRUPTED}\n".encode())
    os._exit(130)


def _explore(config, workdir: Path, overrides: dict[str, str], console: Console) -> None:
    from cnnjax.commands.explore import explore
    from cnnjax.runs import directory as rundir
    from cnnjax.runtime import processes as runtime

    with StopFlag(_leave) as stop:
        runtime.keep_compiled(config.data.cache_dir)
        page = explore(config, workdir, progress=console, stop=stop)
    console.message(f"\nwritten  {page} (open it in a browser), and each picture as PNG in {page.parent / 'explore'}")
    chosen = "".join(f" --config.{key}={shlex.quote(value)}" for key, value in overrides.items())
    place = FLAGS.workdir or str(workdir)
    try:
        rundir.finished(workdir, config)
    except CheckpointError:  # a run with another config lives here
        place += "-explored"
    console.message(f"train    python launch.py --config={FLAGS.config} --workdir={shlex.quote(place)}{chosen}")


def _report(overrides: dict[str, str], console: Console) -> None:
    from cnnjax.pages import report

    _stop_anywhere()
    if overrides:
        raise ConfigError("--mode=report reads a run that is there; leave out --config.* flags")
    if FLAGS.compare:
        with contextlib.ExitStack() as held:
            runs = [held.enter_context(_local(workdir, "", console))[0] for workdir in FLAGS.compare]
            page = report.compare_runs(runs, FLAGS.output or None)
    elif FLAGS.workdir:
        with _local(FLAGS.workdir, "", console) as (workdir, _):
            page = report.write_report(workdir, FLAGS.output or None)
    else:
        raise ConfigError("--mode=report needs --workdir=DIR, a run directory, or --compare=runs/a,runs/b")
    console.message(f"written  {page} (open it in a browser)")


def _eval(workdir: Path, overrides: dict[str, str], console: Console) -> None:
    from cnnjax.commands.evaluate import evaluate
    from cnnjax.pages import tables
    from cnnjax.runtime import processes as runtime

    _stop_anywhere()
    runtime.keep_compiled(overrides.get("data.cache_dir") or config_lib.default().data.cache_dir)
    with _processes() as main:
        result = evaluate(workdir, FLAGS.split, FLAGS.step, overrides=overrides, progress=console if main else Progress())
    if not main:
        return
    console.message(f"{workdir}, step {result['step']}")
    console.message(tables.details_text(result))
    name = FLAGS.split if FLAGS.step == "best" else f"{FLAGS.split}-{result['step']}"
    console.message(f"\nwritten  {workdir}/eval/{name}.json, {workdir}/eval/{name}.csv (one row per image)")


def _predict(workdir: Path, overrides: dict[str, str], console: Console) -> None:
    from cnnjax.inference.classifier import predict
    from cnnjax.runtime import processes as runtime

    _stop_anywhere()
    if overrides:
        raise ConfigError("--mode=predict takes its config from the checkpoint; leave out --config.* flags")
    if not FLAGS.input:
        raise ConfigError("--mode=predict needs --input=FILE, a folder or a quoted glob, such as --input='cells/*.png'")
    output = FLAGS.output or "predictions.csv"
    runtime.keep_compiled(config_lib.default().data.cache_dir)
    done, bad = predict(workdir, FLAGS.input, output, FLAGS.step, progress=console)
    unread = f", {counted(bad, 'file')} could not be read" if bad else ""
    console.message(f"{counted(done, 'image')} predicted{unread}; see {output}")


def run(argv: list[str]) -> int:
    """`main` with errors as one line each and exit codes."""
    try:
        main(argv)
        return 0
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75
    except PeerError as error:
        from cnnjax.runtime import processes as runtime

        runtime.end(error, 1)  # leaving JAX in good order would wait for the process that is gone
    except KeyboardInterrupt:  # of what has nothing to save: training and exploring listen themselves
        print("stopped before it was done; the same command starts it again", file=sys.stderr)
        return 75
    except OSError as error:
        if not _disk(error):
            raise
        print(f"error: {_disk(error)}", file=sys.stderr)
        return 2


def _disk(error: OSError) -> str:
    """What to say of a file system that is full or read-only; "" for other errors."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return ""
    advice = "make it writable" if error.errno == errno.EROFS else "make room"
    again = "continues from the last checkpoint, if there is one" if FLAGS.mode == "train" else "starts again"
    place = error.filename or FLAGS.workdir or "the run directory"
    return f"{error.strerror} ({place}); {advice}, then the same command {again}"


if __name__ == "__main__":
    code = run(sys.argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # all is said and done: the exit code is not to be changed any more
    if code in (2, 75):  # all is saved, and Python would wait for what is compiled ahead in another thread
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
