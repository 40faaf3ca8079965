"""`RunDirectory`, the one place that knows the names of a run's files."""

import ast
from pathlib import Path

import cnnjax
from cnnjax.runs.places import Place, Places

PACKAGE = Path(cnnjax.__file__).parent


def names_in(source: str, names: set[str]) -> set[str]:
    """The names of files that stand as text in a module, docstrings left out: whole, or joined to a directory."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        joined = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        text = node.right if joined else node
        if isinstance(text, ast.Constant) and text.value in names and (joined or "." in text.value):
            found.add(text.value)
    return found


def test_no_other_module_writes_the_name_of_a_file_of_a_run():
    names = {place.name for place in vars(Places).values() if isinstance(place, Place)}
    assert {"splits.csv", "eval", "explore", "summary.json"} < names
    where, hub = "runs/places.py", "weights/wanted.py"  # repositories of the Hub have a config.json, too
    for shown in ('x = run / "eval"', 'open("splits.csv")', "f\"in {d / 'explore'}\""):
        assert names_in(shown, names)
    modules = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {name for name, source in modules.items() if names_in(source, names)} == {where, hub}
