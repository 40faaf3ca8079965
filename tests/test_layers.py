"""Imports go downwards only, and library code leaves flags, environment, working directory and stdout alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cnnjax

LAYERS = (
    ("errors", "columns", "listings", "config", "images", "geometry", "colour", "augment", "mixing", "kernels", "sampling", "layers", "resnet", "models", "metrics",
     "pixels", "progress", "demo", "download", "plots", "stopping", "remote", "validation", "early", "events"),
    ("tfds", "rundir", "runtime", "sources", "splits", "cache", "whitening", "tables"),
    ("dataset", "pipeline", "state", "pages"),
    ("steps", "checkpoints"),
    ("inference", "report", "plan"),
    ("train", "evaluate", "predict", "describe", "explore"),
)  # fmt: skip
VERBS = LAYERS[-1]
LAYER = {name: i for i, layer in enumerate(LAYERS) for name in layer}
WITHOUT_JAX = ("config", "images", "pixels", "sources", "splits", "cache", "dataset", "download", "tfds", "rundir", "progress",
               "demo", "errors", "columns", "listings", "plots", "stopping", "remote", "validation", "early", "events", "tables", "pages", "report", "whitening")  # fmt: skip
ACCELERATED = {"jax", "jaxlib", "grain", "flax", "orbax", "optax"}
FORBIDDEN = {  # beside what a file is for
    "geometry": {"flax", "optax", "grain", "orbax"},
    "colour": {"flax", "optax", "grain", "orbax"},
    "mixing": {"flax", "optax", "grain", "orbax"},
    "augment": {"flax", "optax", "grain", "orbax"},
    "kernels": {"flax", "optax", "grain", "orbax"},
    "sampling": {"flax", "optax", "grain", "orbax"},
    "layers": {"optax", "grain", "orbax"},
    "resnet": {"optax", "grain", "orbax"},
    "models": {"optax", "grain", "orbax"},
    "metrics": {"flax", "grain", "orbax", "optax"},
    "state": {"grain", "orbax"},
    "steps": {"grain", "orbax"},
    "plan": {"flax", "grain", "orbax"},
    "pipeline": {"flax", "optax", "orbax"},
    "runtime": {"flax", "grain", "optax", "orbax"},
}

FILES = {path.stem: path for path in Path(cnnjax.__file__).parent.glob("*.py")}
FILES |= {name: Path(cnnjax.__file__).parent / name / "__init__.py" for name in ("kernels", "pixels")}
FILES["sampling"] = Path(cnnjax.__file__).parent / "kernels" / "sampling.py"
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(tree: ast.AST) -> tuple[set[str], set[str]]:
    """What is imported anywhere in a file, in functions too: modules of cnnjax, and names of other top packages."""
    inside, outside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "cnnjax":
                inside.add(rest.partition(".")[0])
            else:
                outside.add(top)
    return inside, outside


def uses(tree: ast.AST) -> set[str]:
    """Dotted names that a file reads, such as os.environ, and `print` where it is called."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_every_file_has_a_layer():
    assert FILES.keys() - {"__init__"} == LAYER.keys()


@pytest.mark.parametrize("name", LAYER)
def test_imports_go_to_lower_layers_or_stay_in_the_same(name):
    inside, _ = imports(TREES[name])
    assert inside <= LAYER.keys()
    assert {other for other in inside if LAYER[other] > LAYER[name]} == set()


def test_no_cycles():
    waiting = {name: imports(TREES[name])[0] - {name} for name in LAYER}  # a package may import its own modules
    while waiting:
        free = [name for name, needed in waiting.items() if not needed & waiting.keys()]
        assert free, f"these import each other: {waiting}"
        for name in free:
            del waiting[name]


@pytest.mark.parametrize("name", VERBS)
def test_verbs_never_import_each_other(name):
    assert imports(TREES[name])[0] & set(VERBS) == set()


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_data_side_never_imports_jax(name):
    assert imports(TREES[name])[1] & ACCELERATED == set()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_layers_keep_their_libraries_to_themselves(name):
    assert imports(TREES[name])[1] & FORBIDDEN[name] == set()


@pytest.mark.parametrize("name", FILES)
def test_library_code_reads_no_flags_environment_or_directory_and_does_not_print(name):
    bad = {"print", "input", "exit", "sys.exit", "os.environ", "os.getenv", "os.getcwd", "os.chdir", "Path.cwd", "sys.argv"}
    assert uses(TREES[name]) & bad == set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "absl":
            assert {alias.name for alias in node.names} <= {"logging"}
        if isinstance(node, ast.Import):
            assert not {"absl.flags", "absl.app", "absl"} & {alias.name for alias in node.names}


def test_the_checks_above_see_what_they_forbid():
    tree = ast.parse("def f():\n    from absl import flags\n    import jax.numpy\n    from cnnjax import train\n"
                     "    print(os.environ['A'])\n")  # fmt: skip
    assert imports(tree) == ({"train"}, {"absl", "jax"})
    assert {"print", "os.environ"} <= uses(tree)


def loaded_after(statement: str, *modules: str) -> list[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_is_cheap():
    assert loaded_after("import cnnjax", "numpy", "jax", "PIL", "ml_collections", "absl") == []


def test_importing_the_data_side_does_not_bring_jax():
    modules = ", ".join(f"cnnjax.{name}" for name in WITHOUT_JAX)
    assert loaded_after(f"import {modules}", *sorted(ACCELERATED), "tensorflow") == []


def test_lazy_names_are_functions_also_after_their_module_was_imported():
    code = "import cnnjax, cnnjax.config; c = cnnjax.load_config; assert callable(c) and 'load_config' in dir(cnnjax)"
    assert loaded_after(code, "jax") == []
    code = ("import cnnjax; from cnnjax.train import train; from cnnjax import train as again, explore; "
            "assert cnnjax.train is train is again and callable(explore) and callable(cnnjax.explore)")  # fmt: skip
    assert loaded_after(code, "tensorflow") == []
    with pytest.raises(AttributeError, match="it has load_config"):
        cnnjax.lod_config  # noqa: B018
