"""Arbitrary settings: refused as ConfigError, or a config that its own checks pass and that survives its JSON file.

Hypothesis makes the settings and simplifies those that fail.
"""

import json
import math
import random
import string
from collections.abc import Callable
from pathlib import Path

import hypothesis
from fuzz.findings import Finding, told
from fuzz.mutations import damaged
from hypothesis import strategies as st

from cnnjax import config as config_lib
from cnnjax.cli import flags
from cnnjax.errors import ConfigError

SECONDS = 60  # of an attempt, after which its process is ended
LIMITED = True
EXAMPLES = 40  # settings of one attempt
KEYS = tuple(config_lib.KEYS)
SECTIONS = sorted({name.partition(".")[0] for name in KEYS if "." in name})
FILE = Path(__file__).resolve().parents[2] / "configs" / "folder.py"

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(string.digits + ".,-+e_()[] ", max_size=12),
    st.sampled_from(("nan", "inf", "-inf", "1e999", "9" * 5000, "0x10", "1_0", "(", "[" * 200, "(1,)", "((1,),)", "{}", "(1j,)", "'a',", "auto",
                     "true", "None", "a.py:b", "/no/such.py:x", "balanced", "a=1", "=1", "a=nan", "a=0", "10 min", "0 s", "9" * 400 + " min",
                     "(?P<a", "a{9999999999}", "(" * 120, "[[a]]", "\udcff", "\0", "~", "~nobody/x")),
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 300), st.integers(), st.floats(), st.floats(0, 1), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=4,
)
NAMES = st.one_of(
    st.sampled_from((*KEYS, *SECTIONS, "augment")), st.text(max_size=8), st.sampled_from(KEYS).map(lambda n: n + "x")
)


def allowed(name: str):
    """Values that a key may well have, so that checks of several keys are reached."""
    key = config_lib.KEYS[name]
    if isinstance(key.default, bool):
        return st.booleans()
    if isinstance(key.choices, tuple) and key.choices and not isinstance(key.default, tuple):
        return st.sampled_from(key.choices)
    if isinstance(key.default, int):
        return st.integers(max(int(key.least or 0), 0), 64)
    if isinstance(key.default, float):
        return st.floats(0, 1.5) | st.just(key.default)
    return st.just(key.default) | VALUES


LIKELY = st.sampled_from(KEYS).flatmap(lambda name: st.tuples(st.just(name), allowed(name)))
SETTINGS = st.lists(LIKELY | LIKELY | st.tuples(NAMES, VALUES), max_size=6).map(dict)
TREES = st.dictionaries(st.one_of(st.sampled_from(SECTIONS), NAMES),
                        st.one_of(VALUES, st.dictionaries(st.sampled_from([k.rpartition(".")[2] for k in KEYS]), VALUES, max_size=3)),
                        max_size=4)  # fmt: skip
FLAGS = st.builds(lambda name, value, joint: [f"--config.{name}={value}"] if joint else [f"--config.{name}", str(value)],
                  NAMES, TEXTS | NUMBERS, st.booleans())  # fmt: skip


def attempt(rng: random.Random, folder: Path) -> None:
    """Tries `EXAMPLES` settings in one of the ways in which a config is given. Raises Finding with the simplest that fails."""
    way = rng.choice(WAYS)
    way(rng, folder)


def search(rng: random.Random, folder: Path, strategy, check: Callable) -> None:
    """Lets Hypothesis look for a value that `check` fails on."""
    profile = hypothesis.settings(max_examples=EXAMPLES, database=None, deadline=None, report_multiple_bugs=False,
                                  suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip

    @hypothesis.seed(rng.getrandbits(64))
    @profile
    @hypothesis.given(strategy)
    def examples(value):
        judge(lambda: check(value), repr(value), folder)

    examples()


def judge(make: Callable, given: str, folder: Path) -> None:
    """Checks what is made of settings. Raises Finding."""
    (folder / "settings.txt").write_text(given, errors="backslashreplace")
    try:
        config = make()
    except ConfigError as error:
        if not str(error).strip() or any(not line.strip() for line in str(error).splitlines()):
            raise Finding("an error without text", given) from error
        return
    except Exception as error:
        raise Finding(told(error), f"{error!r} of {given}") from error
    try:
        config_lib.validate(config)
        back = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    except Exception as error:
        raise Finding(f"accepted, then {told(error)}", f"{error!r} of {given}") from error
    if back != config:
        lost = [name for name, value in config_lib.flatten(config) if dict(config_lib.flatten(back))[name] != value]
        raise Finding(f"another config from its JSON file: {lost}", given)
    if not all(math.isfinite(value) for _, value in config_lib.flatten(config) if isinstance(value, float)):
        raise Finding("not finite", given)


def overrides(rng: random.Random, folder: Path) -> None:
    """Sets keys of the default by name."""
    search(rng, folder, SETTINGS, lambda given: config_lib.finish(config_lib.override(config_lib.default(), given), given))


def trees(rng: random.Random, folder: Path) -> None:
    """Reads trees, as of a file."""
    search(rng, folder, TREES | VALUES, config_lib.from_dict)


def files(rng: random.Random, folder: Path) -> None:
    """Loads a config file with overrides."""
    search(rng, folder, SETTINGS, lambda given: config_lib.load_config(FILE, {"data.path": "x", **given}))


def names(rng: random.Random, folder: Path) -> None:
    """Loads what no file or variant is named."""
    kinds = TEXTS | st.builds(
        lambda name, text: f"{name}{text}", st.sampled_from((f"{FILE}:", "digits:", "a.py", "/", "./")), TEXTS
    )
    search(rng, folder, kinds, lambda given: config_lib.load_config(given, {"data.path": "x"}))


def arguments(rng: random.Random, folder: Path) -> None:
    """Parses a command line."""

    def check(given: list[list[str]]):
        parsed = flags.parse(["launch.py", *(argument for pair in given for argument in pair)])
        return config_lib.load_config(FILE, {"data.path": "x", **parsed})

    search(rng, folder, st.lists(FLAGS, max_size=4), check)


def texts(rng: random.Random, folder: Path) -> None:
    """Reads the text of a config.json that is damaged."""
    whole = config_lib.to_json(config_lib.load_config(FILE, {"data.path": "x"})).encode()
    for _ in range(EXAMPLES):
        text = damaged(rng, whole).decode("utf-8", "replace")
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):  # runs.read_json refuses it
            continue
        judge(lambda tree=tree: config_lib.from_dict(tree), text, folder)


WAYS = (overrides, trees, files, names, arguments, texts)
