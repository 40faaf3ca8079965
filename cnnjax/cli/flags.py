"""The flags of the command line and the texts of --help and --version."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence

from absl import flags

import cnnjax
from cnnjax import config as config_lib
from cnnjax.cli import habits
from cnnjax.errors import ConfigError
from cnnjax.runs import is_remote

MODES = (
    "train",
    "crossvalidate",
    "explore",
    "audit",
    "report",
    "eval",
    "predict",
    "describe",
    "lr_find",
    "evidence",
    "robustness",
    "export",
    "serve",
)
DOCUMENTED = "python launch.py"  # the command in the texts of the library
USAGE = """Trains, evaluates and uses image classifiers.

    python launch.py --config=configs/malaria.py                 trains a run, or continues it
    python launch.py --mode=crossvalidate --config=configs/malaria.py   trains a network for each fold of the images
    python launch.py --mode=describe --config=configs/malaria.py shows config, network and data plan
    python launch.py --mode=explore --config=configs/malaria.py  shows the data and its augmentation as a page
    python launch.py --mode=audit --config=configs/malaria.py    looks for leaks and shortcuts; --workdir=runs/malaria --labels: and labels
    python launch.py --mode=lr_find --config=configs/malaria.py  tries learning rates and draws the loss over them
    python launch.py --mode=report --workdir=runs/malaria        writes a run's page; --compare=runs/a,runs/b: of several
    python launch.py --mode=eval --workdir=runs/malaria          evaluates a run
    python launch.py --mode=evidence --workdir=runs/malaria      computes the intervals of its evaluations anew, at another level, say
    python launch.py --mode=robustness --workdir=runs/malaria    evaluates it on blurred, noisy, darker and compressed images
    python launch.py --mode=export --workdir=runs/malaria --output=cells.onnx   writes it for other programs: .onnx, .stablehlo, .tflite, .html, .safetensors
    python launch.py --mode=predict --workdir=runs/malaria --input='cells/*.png' --output=predictions.csv
    python launch.py --mode=serve --workdir=runs/malaria --port=8000   answers over HTTP, with a page at http://127.0.0.1:8000

`cnnjax` and `python -m cnnjax` are the same program as launch.py. Any value of the config is set with
--config.section.key=value. Exit codes: 0 done; 2 one line says what to change; 75 stopped by a signal, all finished work is
saved; 130 a second Ctrl-C did not wait for the save; 1 another process of the run is lost.
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "config", "", "config file, or the name of a bundled one, with a variant after a colon: configs/malaria.py:demo, malaria:demo",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum("mode", "train", MODES, "what to do", flag_values=FLAGS)
flags.DEFINE_string(
    "workdir", "", "run directory; default runs/<config name>[-<variant>][-<name of the data>]", flag_values=FLAGS
)
flags.DEFINE_integer(
    "fold",
    None,
    "crossvalidate: train the network of this fold only, from 0; the last to be done puts all together",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "seeds",
    0,
    "train: runs in <workdir>-seed<number>, of so many seeds from --config.seed on",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "topology", "", "describe: compile the step for TPUs that are not here, such as v5e:2x4, or v5e:2x4@2 for two slices; takes libtpu",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string("split", "test", "eval, robustness: train, val or test", flag_values=FLAGS)
flags.DEFINE_string("data", "", "eval: another labelled set, a folder, an archive, a table or tfds:NAME", flag_values=FLAGS)
flags.DEFINE_string(
    "step", "best", "eval, predict, robustness, export: best, latest or the number of a kept checkpoint", flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "input", [], "predict: image file, folder, archive, table or quoted glob; may be repeated", flag_values=FLAGS
)
flags.DEFINE_string(
    "output",
    "",
    "predict: table to write, .csv, .tsv, .parquet or .jsonl (predictions.csv); report: the page (report.html); export: the file",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "format", None, ("onnx", "stablehlo", "litert", "html", "safetensors"), "export: of the file; default: by the ending of --output",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "quantize", None, ("int8",), "export: weights and activations of 8 bits, for onnx and litert", flag_values=FLAGS
)
flags.DEFINE_string(
    "ort", "", "export: folder of ONNX Runtime Web for --format=html; default: the cache, which npm fills", flag_values=FLAGS
)
flags.DEFINE_float(
    "prevalence",
    None,
    "predict: share of the positive class of two among the images; default: as in training",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "explain", "", "predict: folder for a picture of each image with the places that speak for its class", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "overwrite", False, "predict: replace the table, and the pictures of --explain, where they exist", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "labels", False, "audit: look for doubtful labels too, which takes a run that is trained", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "trust_code",
    False,
    "eval, predict, robustness, export: run the Python code of its own that a stranger's run names",
    flag_values=FLAGS,
)
flags.DEFINE_boolean("card", False, "report: write card.md, which reviewers ask for, beside the page", flag_values=FLAGS)
flags.DEFINE_list("compare", [], "report: runs, or cross-validations, to compare: runs/a,runs/b", flag_values=FLAGS)
flags.DEFINE_boolean(
    "distributed", None, "train, eval, robustness: join several processes, found from the environment; default: where Slurm, Open MPI or "
    "Cloud TPU names several", flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
    "coordinator", "", "train, eval: HOST:PORT of process 0, where the environment names none", flag_values=FLAGS
)
flags.DEFINE_integer("num_processes", 0, "with --coordinator: the number of processes", flag_values=FLAGS)
flags.DEFINE_integer("process_id", -1, "with --coordinator: the number of this process, from 0", flag_values=FLAGS)
flags.DEFINE_string("model", "", "serve: exported file, .onnx or .stablehlo, in place of --workdir", flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "serve: address of this machine to listen at; 0.0.0.0: all", flag_values=FLAGS)
flags.DEFINE_integer("port", 8000, "serve: 0: a free one", lower_bound=0, upper_bound=65535, flag_values=FLAGS)
flags.DEFINE_string("token_file", "", "serve: a token on each line, one of which a client has to have", flag_values=FLAGS)
flags.DEFINE_list(
    "limits", [], "serve: bytes=33554432,pixels=67108864,requests=256 and more, see docs/serving.md", flag_values=FLAGS
)
flags.DEFINE_float("latency", 0.0, "serve: milliseconds that an image may wait for others; 0: none waits", flag_values=FLAGS)
flags.DEFINE_list("origins", [], "serve: pages that may use it from a browser, as https://example.org", flag_values=FLAGS)
flags.DEFINE_boolean("version", False, "show the versions of cnnjax, JAX and Python", flag_values=FLAGS)
flags.DEFINE_boolean("help", False, "show this text and the config's keys", short_name="h", flag_values=FLAGS)


def command() -> str:
    """Returns the command as it was typed: `cnnjax`, `python -m cnnjax` or `python launch.py`."""
    name = os.path.basename(sys.argv[0])
    return {"cnnjax": "cnnjax", "__main__.py": "python -m cnnjax"}.get(name, DOCUMENTED)


def parse(argv: Sequence[str]) -> dict[str, str]:
    """Parses the flags; returns the overrides of `--config.section.key=value`.

    Raises:
        ConfigError: an argument that is not a flag, an unknown flag, or a flag without its value.
    """
    overrides, rest = {}, list(argv[:1])
    arguments = iter(_opened(argv[1:]))
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
        raise ConfigError(f"{' '.join(str(error).split())}; {_hint(error)}{DOCUMENTED} --help lists the flags") from None
    if left:
        place = "input" if FLAGS.mode == "predict" or not os.path.exists(left[0]) else "config.data.path"
        flag = "mode" if left[0] in MODES else place
        raise ConfigError(f"what is {left[0]!r}? every argument is a flag, such as --{flag}={left[0]}")
    if FLAGS.explain and FLAGS.mode != "predict":
        raise ConfigError(
            f"--explain={FLAGS.explain} is for --mode=predict; a report shows where the network looks by itself"
        )
    if FLAGS.card and (FLAGS.mode != "report" or FLAGS.compare):
        raise ConfigError("--card is for --mode=report --workdir=RUN, the card of one run")
    if FLAGS.data and FLAGS.mode != "eval":
        raise ConfigError(f"--data={FLAGS.data} is for --mode=eval; did you mean --config.data.path={FLAGS.data}?")
    if FLAGS.fold is not None and FLAGS.mode != "crossvalidate":
        raise ConfigError(
            f"--fold={FLAGS.fold} is for --mode=crossvalidate, not for --mode={FLAGS.mode}; leave one of them out"
        )
    for name in ("format", "quantize", "ort"):
        if FLAGS[name].value and FLAGS.mode != "export":
            raise ConfigError(f"--{name}={FLAGS[name].value} is for --mode=export; leave it out")
    for name in ("model", "token_file", "limits", "latency", "origins"):
        if FLAGS[name].value and FLAGS.mode != "serve":
            raise ConfigError(f"--{name} is for --mode=serve; leave it out")
    if FLAGS.prevalence is not None and FLAGS.mode != "predict":
        raise ConfigError(
            f"--prevalence={FLAGS.prevalence:g} is for --mode=predict; for PPV and NPV write --config.evidence.prevalence"
        )
    for key in ("data.path", "data.root", "data.metadata", "data.cache_dir", "split.file"):
        if overrides.get(key) and not is_remote(overrides[key]):
            overrides[key] = os.path.abspath(os.path.expanduser(overrides[key]))
    if (weights := overrides.get("model.weights", "")) and not weights.startswith("hf:"):
        kind = "run:" if weights.startswith("run:") else ""
        place = weights.removeprefix(kind)
        if place and "://" not in place:
            overrides["model.weights"] = kind + os.path.abspath(os.path.expanduser(place))
    return overrides


def _opened(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--input a.png b.png`, as a shell leaves an open glob, as one flag for each file."""
    found, inputs = [], False
    for i, argument in enumerate(arguments):
        if argument.startswith("-"):
            inputs = argument == "--input" or argument.startswith("--input=")
        elif inputs and arguments[i - 1] != "--input":
            argument = f"--input={argument}"
        found.append(argument)
    return found


def _hint(error: flags.Error) -> str:
    """The words to type where users of other programs type what does not exist here."""
    if isinstance(error, flags.UnrecognizedFlagError):
        found = habits.for_flag(error.flagname)
    else:
        matched = re.match(r"flag --mode=(\w+):", str(error))
        found = habits.for_mode(matched[1]) if matched else ""
    return f"did you mean {found}? " if found and found != habits.SAME else f"{found}; " if found else ""


def help_text() -> str:
    """Returns the usage, all flags, all keys of the config with their defaults, the recipes and the presets of augmentation."""
    notes = config_lib.notes()
    keys = "\n".join(
        f"  --config.{key}={value!r}\n      {notes[key]}" for key, value in config_lib.flatten(config_lib.default())
    )
    presets = "\n".join(
        f"  --config.augment={name}\n      {', '.join(f'{k}={v}' for k, v in values.items()) or 'all off'}"
        for name, values in config_lib.PRESETS.items()
    )
    recipes = "\n".join(
        f"  --config.recipe={name}\n      {', '.join(f'{k}={v}' for k, v in values.items())}"
        for name, values in config_lib.RECIPES.items()
    )
    names = FLAGS.get_help().replace(f"{__name__}:", "flags:")
    return f"{USAGE}\n{names.strip()}\n\nconfig keys and their defaults:\n{keys}\n\nrecipes, of the whole training:\n{recipes}\n\npresets of augmentation:\n{presets}\n"


def version_text() -> str:
    """Returns the versions on one line: `cnnjax 0.1.0 (jax 0.10.2, python 3.11.7)`."""
    jax = importlib.metadata.version("jax")  # JAX is not imported for this
    return f"cnnjax {cnnjax.__version__} (jax {jax}, python {platform.python_version()})"
