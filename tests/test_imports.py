"""The house: imports go down only and across rooms through a room's face, and no room does what is another's.

A room is a folder of `cnnjax/`. Its face is its `__init__.py`: explicit names of its own files, nothing else. docs/design.md
has the table of rooms.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cnnjax

FLOORS = {
    "__main__": 10,
    "cli": 9,
    "studies": 8,
    "commands": 7,
    "training": 6, "pages": 6, "serving": 6,
    "inference": 5, "audit": 5,
    "data": 4, "evidence": 4, "export": 4, "weights": 4,
    "models": 3, "runs": 3, "checkpoints": 3,
    "augmentation": 2, "runtime": 2, "config": 2,
    "metrics": 1, "kernels": 1, "inside": 1,
    "cpus": 0, "errors": 0, "progress": 0, "streams": 0, "typed": 0,
}  # fmt: skip
ACCELERATED = {"jax", "jaxlib", "grain", "flax", "orbax", "optax"}
WITHOUT_JAX = (
    "pages",
    "audit",
    "data",
    "evidence",
    "runs",
    "config",
    "metrics",
    "cpus",
    "errors",
    "inside",
    "progress",
    "streams",
    "typed",
)
NEVER = {
    **{room: ACCELERATED for room in WITHOUT_JAX},
    "training": {"matplotlib", "jinja2"},
    "serving": ACCELERATED,
    "augmentation": {"flax", "optax", "grain", "orbax"},
    "kernels": {"flax", "optax", "grain", "orbax", "ml_collections"},
    "models": {"optax", "grain", "orbax"},
    "runtime": {"flax", "grain", "optax", "orbax"},
    "checkpoints": {"flax", "grain", "optax"},
    "inference": {"optax", "orbax"},
    "weights": {"optax", "grain", "orbax"},
    "export": {"optax", "grain", "orbax"},
}
ROOT = Path(cnnjax.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items() if name != "__init__.py"}
ROOMS = sorted({name.partition("/")[0].removesuffix(".py") for name in TREES})


def room_of(name: str) -> str:
    """'data/splits.py' -> 'data'; 'errors.py' -> 'errors'."""
    return name.partition("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """(module, name) of everything that a file imports, in functions too; name is "" for `import module`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [(node.module, alias.name) for alias in node.names]
    return found


def face(room: str, trees: dict[str, ast.AST]) -> set[str]:
    """The names that a room shows."""
    tree = trees.get(f"{room}/__init__.py") or trees.get(f"{room}.py") or ast.parse("")
    imported = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    return imported | (defined | assigned if f"{room}.py" in trees else set())


def violations(name: str, trees: dict[str, ast.AST]) -> list[str]:
    """Lists the imports of one file that are not allowed, a line each."""
    room, problems = room_of(name), []
    for module, imported in imports(trees[name]):
        parts = module.split(".")
        if parts[0] != "cnnjax":
            if parts[0] in NEVER.get(room, ()):
                problems.append(f"{name}: {room} never imports {parts[0]}")
            continue
        if len(parts) == 1 and not imported:  # the version
            continue
        if len(parts) == 1:
            parts = [parts[0], imported]
        target = parts[1]
        if target == room:
            if room == "commands" and name != "commands/__init__.py":
                problems.append(f"{name}: commands never import each other ({module})")
            continue
        if target not in FLOORS:
            problems.append(f"{name}: cnnjax.{target} is not a room")
        elif FLOORS[target] >= FLOORS[room]:
            problems.append(f"{name}: {room} is not above {target}")
        if target == "commands" and len(parts) > 2:  # each is imported by itself: a report starts without JAX
            continue
        if len(parts) > 2:
            problems.append(f"{name}: {module} goes past the face of {target}")
        elif imported and module != "cnnjax" and imported not in face(target, trees):
            problems.append(f"{name}: {imported} is not in the face of {target}")
    return problems


def cycles(room: str, trees: dict[str, ast.AST]) -> set[str]:
    """Files of a room that import each other in a circle."""
    names = [name for name in trees if room_of(name) == room and not name.endswith("__init__.py")]
    graph = {}
    for name in names:
        own = set()
        for module, imported in imports(trees[name]):
            for full in (module, f"{module}.{imported}"):
                path = full.removeprefix("cnnjax.").replace(".", "/")
                own |= {path + ".py"} & set(names)
        graph[name] = own - {name}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        if not free:
            return set(graph)
        for name in free:
            del graph[name]
    return set()


def uses(tree: ast.AST) -> set[str]:
    """Dotted names that a file reads, such as os.environ, and `print` where it is called."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_every_file_is_in_a_room_of_the_table():
    assert set(ROOMS) == FLOORS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_through_faces_and_leave_out_what_a_room_never_imports(room):
    assert [line for name in TREES if room_of(name) == room for line in violations(name, TREES)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_room_have_no_circle(room):
    assert cycles(room, TREES) == set()


@pytest.mark.parametrize("room", [room for room in ROOMS if f"{room}/__init__.py" in FILES])
def test_a_face_is_a_short_list_of_names_of_its_own_files(room):
    assert len(FILES[f"{room}/__init__.py"].read_text(encoding="utf-8").splitlines()) < 40
    docstring, *body = TREES[f"{room}/__init__.py"].body
    assert isinstance(docstring, ast.Expr) and ast.get_docstring(TREES[f"{room}/__init__.py"])
    *body, names = body
    assert isinstance(names, ast.Assign) and names.targets[0].id == "__all__"
    assert all(isinstance(node, ast.ImportFrom) and node.module.startswith(f"cnnjax.{room}.") for node in body)
    assert sorted(ast.literal_eval(names.value)) == sorted(face(room, TREES))


@pytest.mark.parametrize("name", [name for name in TREES if room_of(name) not in ("__main__", "cli")])
def test_library_code_reads_no_flags_environment_or_directory_and_does_not_print(name):
    bad = {"print", "input", "exit", "sys.exit", "os.environ", "os.getenv", "os.getcwd", "os.chdir", "Path.cwd", "sys.argv"}
    assert uses(TREES[name]) & bad == set()
    assert {module.partition(".")[0] for module, _ in imports(TREES[name])} & {"absl"} == set()


@pytest.mark.parametrize(("code", "complaint"), [
    ("from cnnjax import training", "data is not above training"),
    ("from cnnjax.models import MODELS", "data/new.py: MODELS is not in the face of models"),
    ("def f():\n    import jax.numpy", "data never imports jax"),
    ("from cnnjax.runs.directory import write_json", "goes past the face of runs"),
    ("from cnnjax.nowhere import x", "is not a room"),
])  # fmt: skip
def test_a_violation_is_seen(code, complaint):
    trees = {"data/new.py": ast.parse(code), "models/__init__.py": ast.parse("from cnnjax.models.registry import NETWORKS")}
    assert complaint in "\n".join(violations("data/new.py", trees))


def test_a_circle_and_a_command_that_imports_another_are_seen():
    trees = {"data/a.py": ast.parse("from cnnjax.data import b"), "data/b.py": ast.parse("from cnnjax.data.a import x")}
    assert cycles("data", trees) == {"data/a.py", "data/b.py"}
    trees = {"commands/train.py": ast.parse("from cnnjax.commands.report import report")}
    assert "never import each other" in violations("commands/train.py", trees)[0]
    assert {"print", "os.environ"} <= uses(ast.parse("print(os.environ['A'])"))


def loaded_after(statement: str, *modules: str) -> list[str]:
    """Lists those of `modules` that a fresh process has imported after a statement."""
    code = f"import sys\n{statement}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_is_cheap():
    assert loaded_after("import cnnjax", "numpy", "jax", "PIL", "ml_collections", "absl") == []


def test_importing_rooms_that_never_import_jax_does_not_bring_it():
    modules = ", ".join(f"cnnjax.{name}" for name in WITHOUT_JAX)
    assert loaded_after(f"import {modules}", *sorted(ACCELERATED), "tensorflow") == []


def test_public_names_are_there_and_a_wrong_one_is_told_the_right_ones():
    code = "import cnnjax; assert all(callable(getattr(cnnjax, name)) for name in cnnjax.__all__ if name != '__version__')"
    assert loaded_after(code, "tensorflow") == []
    with pytest.raises(AttributeError, match="it has .*load_config"):
        cnnjax.lod_config  # noqa: B018
