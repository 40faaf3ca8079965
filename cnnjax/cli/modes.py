"""The modes of the command line. Each calls one function of `cnnjax.commands` and prints its result and the next command."""

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from cnnjax.cli.distributed import is_distributed, joined_processes
from cnnjax.cli.flags import FLAGS, command
from cnnjax.cli.signals import CTRL_C, StopFlag
from cnnjax.cli.workdir import local_workdir
from cnnjax.errors import ConfigError
from cnnjax.progress import Console, Progress, counted, duration

INTERRUPTED = "interrupted; the same command continues from the last checkpoint, if there is one"


def train(config, workdir: Path, push: Callable[[], None], console: Console) -> None:
    """Trains, or continues, and prints the numbers at the best step."""
    with StopFlag(leave) as stop:  # before the imports, which take seconds
        from cnnjax import pages, training
        from cnnjax.commands.train import train as train_run
        from cnnjax.evidence import read_evidence
        from cnnjax.metrics import present
        from cnnjax.runs import RunDirectory

        set_up(config)
        with joined_processes() as main:
            summary = train_run(config, workdir, progress=console if main else Progress(), stop=stop, saved=push)
    if not main:
        return
    shown = FLAGS.workdir or workdir
    console.message("")
    patience = counted(training.epochs_of(config.train.patience, summary["steps"] // max(summary["epochs"], 1)), "epoch")
    why = f"no better {config.train.monitor} for {patience}" if summary["stopped"] == "early" else "all epochs done"
    done = counted(summary["epochs"], "epoch")
    if config.train.method == "probe":
        done, why = "a linear probe", f"penalties tried: {summary['epochs']} of {len(config.probe.penalties)}"
    console.message(f"{done} in {duration(summary['seconds'])} ({why}); the numbers at the best step, "
                    f"{summary['best_step']}:")  # fmt: skip
    console.message(pages.numbers_table(summary))
    split = "test" if summary["test"] else "val"
    if made := read_evidence(RunDirectory(workdir), split):  # a run of an older version that is finished has none
        console.message(f"\n{pages.intervals_text(split, made, present([summary[split]], len(summary['classes'])))}")
    if len(summary["classes"]) == 2:
        console.message(f"  {pages.positive_text(config.data.positive or summary['classes'][1])}")
    console.message("")
    console.message(f"time     {pages.time_text(summary)}")
    console.message(f"run      {shown}: report.html (open it in a browser), curves.png, history.csv, eval/{split}.csv")
    named = shlex.quote(str(shown))
    console.message(f"evaluate {command()} --mode=eval --workdir={named} --split={split}")
    console.message(f"predict  {command()} --mode=predict --workdir={named} --input=DIR --output=predictions.csv")


def describe(config, workdir: Path, console: Console) -> None:
    """Prints the config, the network and the data plan."""
    from cnnjax.commands.describe import describe as described

    _stop_anywhere()
    if FLAGS.topology:  # with libtpu installed JAX looks for a TPU
        import jax

        from cnnjax import runtime

        jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
        for name, value in runtime.WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
    console.message(described(config, workdir, topology=FLAGS.topology, progress=console))


def explore(config, workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Writes the page of the data and prints the command that trains on the data."""
    from cnnjax import runtime
    from cnnjax.commands.explore import explore as explored
    from cnnjax.runs import RunDirectory

    with StopFlag(leave) as stop:
        runtime.keep_compiled(config.data.cache_dir)
        page = explored(config, workdir, progress=console, stop=stop)
    console.message(
        f"\nwritten  {page} (open it in a browser), and each picture as PNG in {RunDirectory(page.parent).exploration_pictures}"
    )
    place = (FLAGS.workdir or str(workdir)) + ("-explored" if page.parent != workdir else "")
    console.message(f"train    {_training_command(place, overrides)}")


def audit(config, workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Looks for leaks, shortcuts and doubtful labels, and prints what was found and the next command."""
    with StopFlag(leave) as stop:
        from cnnjax import pages
        from cnnjax.commands.audit import audit as audited

        found = audited(config, workdir, labels=FLAGS.labels, overrides=overrides, progress=console, stop=stop)
    console.message("")
    console.message(pages.findings_text(found.findings, found.probes))
    console.message(f"\nwritten  {found.page} (open it in a browser), and its tables in {found.tables}")
    place = FLAGS.workdir or str(workdir)
    if config is not None:
        console.message(f"train    {_training_command(place, overrides)}")
    elif not FLAGS.labels:
        console.message(f"labels   {command()} --mode=audit --workdir={shlex.quote(place)} --labels")


def lr_find(config, workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Draws the loss over the learning rate and prints the command that trains with the rate to begin with."""
    with StopFlag(leave) as stop:
        from cnnjax.commands.lr_find import lr_find as find

        picture, rate = find(config, workdir, progress=console, stop=stop)
    console.message(f"\nwritten  {picture}")
    if rate is None:
        console.message("no learning rate lowers the loss in so few steps; look at the labels with --mode=explore")
        return
    now = config.optimizer.learning_rate
    console.message(f"begin with {rate:g}, a quarter of the learning rate with the lowest loss (the config has {now:g})")
    chosen = {**overrides, "optimizer.learning_rate": f"{rate:g}"}
    console.message(f"train    {_training_command(FLAGS.workdir or str(workdir), chosen)}")


def _training_command(workdir: str, overrides: Mapping[str, str]) -> str:
    chosen = "".join(f" --config.{key}={shlex.quote(value)}" for key, value in overrides.items())
    return f"{command()} --config={FLAGS.config} --workdir={shlex.quote(workdir)}{chosen}"


def report(overrides: Mapping[str, str], console: Console) -> None:
    """Writes the page of a run, or of a comparison of several runs."""
    from cnnjax.commands.compare import compare_runs
    from cnnjax.commands.report import write_card, write_report

    _stop_anywhere()
    if overrides:
        raise ConfigError("--mode=report reads a finished run; leave out --config.* flags")
    if FLAGS.compare:
        with contextlib.ExitStack() as held:
            runs = [held.enter_context(local_workdir(workdir, "", console))[0] for workdir in FLAGS.compare]
            page = compare_runs(runs, FLAGS.output or None, console)
    elif FLAGS.workdir:
        with local_workdir(FLAGS.workdir, "", console) as (workdir, _):
            if FLAGS.card:
                card, left = write_card(workdir, FLAGS.output or None)
                told = f"still to fill in: {', '.join(left)}" if left else "all lines are filled in"
                console.message(f"written  {card}; {told}")
                return
            page = write_report(workdir, FLAGS.output or None)
    else:
        raise ConfigError("--mode=report needs --workdir=DIR, a run directory, or --compare=runs/a,runs/b")
    numbers = f", {page.with_suffix('.json')} (its numbers)" if FLAGS.compare else ""
    console.message(f"written  {page} (open it in a browser){numbers}")


def evaluate(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Evaluates a checkpoint on a split and prints the numbers."""
    from cnnjax import pages
    from cnnjax.commands.evaluate import evaluate as evaluated
    from cnnjax.evidence import read_evidence
    from cnnjax.metrics import present
    from cnnjax.runs import RunDirectory, short_name

    _stop_anywhere()
    with joined_processes() as main:
        told = console if main else Progress()
        result = evaluated(workdir, FLAGS.split, FLAGS.step, data=FLAGS.data, overrides=overrides, trust_code=FLAGS.trust_code,
                           progress=told)  # fmt: skip
    if not main:
        return
    kind = f"data-{short_name(FLAGS.data)}" if FLAGS.data else FLAGS.split
    name = kind if FLAGS.step == "best" else f"{kind}-{result['step']}"
    console.message(f"{workdir}, step {result['step']}")
    console.message(pages.details_text(result))
    if made := read_evidence(RunDirectory(workdir), name):
        console.message(f"\n{pages.intervals_text(name, made, present([result], len(result['classes'])))}")
    console.message(f"\nwritten  {workdir}/eval/{name}.json, {workdir}/eval/{name}.csv (one row per image)")


def robustness(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Evaluates a checkpoint on changed images and prints what each change costs."""
    from cnnjax import pages
    from cnnjax.commands.robustness import robustness as measured

    _stop_anywhere()
    with joined_processes() as main:
        result = measured(workdir, FLAGS.split, FLAGS.step, overrides=overrides, trust_code=FLAGS.trust_code,
                          progress=console if main else Progress())  # fmt: skip
    if not main:
        return
    console.message(
        f"{workdir}, step {result.step}: {counted(result.images, 'image')} of the {result.of:,} of {result.split}"
    )
    console.message(pages.robustness_text(result))
    name = FLAGS.split if FLAGS.step == "best" else f"{FLAGS.split}-{result.step}"
    console.message(f"\nwritten  {workdir}/eval/{name}-robustness.json")
    console.message(f"report   {command()} --mode=report --workdir={shlex.quote(str(workdir))}")


def evidence(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Computes the evidence of every evaluation of a run anew and prints the intervals."""
    from cnnjax import pages
    from cnnjax.commands.evidence import evidence as computed

    _stop_anywhere()
    found = computed(workdir, overrides)
    for name, made in found.items():
        console.message(f"{pages.intervals_text(name, made)}\n")
    console.message(
        f"written  {workdir}/eval/NAME-evidence.json of {', '.join(found)}; the page: --mode=report --workdir={workdir}"
    )


def export(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Writes a network as a file for other programs and prints how far the file's numbers are from the run's."""
    from cnnjax import pages
    from cnnjax.commands.export import export as exported

    _stop_anywhere()
    if not FLAGS.output:
        raise ConfigError(
            "--mode=export needs --output=FILE, such as --output=cells.onnx, or .stablehlo, .tflite, .html, .safetensors"
        )
    try:
        made = exported(workdir, FLAGS.output, FLAGS.format or "", FLAGS.step, quantize=FLAGS.quantize or "", ort=FLAGS.ort, overrides=overrides,
                        trust_code=FLAGS.trust_code, progress=console)  # fmt: skip
    except OSError as error:
        if Path(error.filename or "").parent != Path(FLAGS.output).parent:  # not of what is written: an image, say
            raise
        raise ConfigError(f"cannot write {FLAGS.output} ({error.strerror or error}); name another --output=FILE") from None
    console.message(pages.export_text(made.to_dict()))
    console.message(f"\nwritten  {made.path}, and {made.facts} (its facts, and these numbers)")


def predict(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Classifies files and writes a table with a row for each."""
    from cnnjax.commands.predict import predict as predicted

    _stop_anywhere()
    if overrides:
        raise ConfigError("--mode=predict takes its config from the checkpoint; leave out --config.* flags")
    if not FLAGS.input:
        raise ConfigError("--mode=predict needs --input=FILE, a folder or a quoted glob, such as --input='cells/*.png'")
    output = FLAGS.output or "predictions.csv"
    done, bad = predicted(workdir, FLAGS.input, output, FLAGS.step, prevalence=FLAGS.prevalence, overwrite=FLAGS.overwrite, explain=FLAGS.explain,
                          trust_code=FLAGS.trust_code, progress=console)  # fmt: skip
    unread = f", {counted(bad, 'file')} could not be read" if bad else ""
    console.message(f"{counted(done, 'image')} predicted{unread}; see {output}")
    if FLAGS.explain:
        console.message(f"where it looks: {counted(done, 'picture')} in {FLAGS.explain}, each named by its row of the table")


def keep_memory(overrides: Mapping[str, str]) -> None:
    """Lets this process keep the memory that it frees, unless `runtime.keep_memory` says otherwise: networks answer sooner on a CPU."""
    from cnnjax import config, runtime

    own = {key: value for key, value in overrides.items() if key == "runtime.keep_memory"}
    runtime.keep_memory(config.override(config.default(), own))


def set_up(config) -> None:
    """Prepares this process to train, before several processes are joined, which starts threads."""
    from cnnjax import runtime

    runtime.set_up(config)
    if not is_distributed() and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        runtime.divide_cpu(config)


def _stop_anywhere() -> None:
    """Lets Ctrl-C end a mode that saves nothing. To be called after the imports: an exception in an import could be lost."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, CTRL_C)


def leave() -> None:
    """Ends the process at once. JAX would print and forget an exception that is raised in one of its callbacks."""
    shown = "\x1b[?25h" if os.isatty(1) else ""  # progress bars hide the cursor
    os.write(2, f"{shown}{INTERRUPTED}\n".encode())
    os._exit(130)
