"""Sizes at which a file or a function is asked what second thing it does."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cnnjax", "configs", "benchmarks")
LINES = {".py": 350, ".cc": 400, ".h": 400}
FUNCTION_LINES = 60
REASON = "Longer than"  # begins the sentence, within a file's first 30 lines, that says why a file may be longer


def _sources(*suffixes: str) -> list[Path]:
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]
    return [*inside, *(ROOT / name for name in ("launch.py", "setup.py") if Path(name).suffix in suffixes)]


def long_functions(tree: ast.AST) -> list[str]:
    """Names of functions with more than `FUNCTION_LINES` lines, their docstrings not counted."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES:
                found.append(f"{node.name} ({lines} lines)")
    return found


@pytest.mark.parametrize("path", _sources(*LINES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_or_says_why_not(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES[path.suffix] or REASON in "\n".join(lines[:30])


@pytest.mark.parametrize("path", _sources(".py"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_fit_on_a_screen(path):
    assert long_functions(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_a_long_function_is_seen():
    code = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * (FUNCTION_LINES + 1)
    assert long_functions(ast.parse(code)) == [f"f ({FUNCTION_LINES + 1} lines)"]
