"""The prose of docs, docstrings, comments and errors, as far as a test can read it.

Run `python -m pytest tests/test_prose.py -n0 -q -k ROOM` to see the lines of one room.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIRST_WORDS = {"What", "That", "Of", "Those", "As", "Which"}  # a docstring begins with a verb, or with a noun and its shape
# What to write instead -> what not to write.
PHRASES = {
    '"request"': r"\bwish(es|ed|ing)?\b",
    '"fix"': r"\bmend(s|ed|ing)?\b",
    '"expensive"': r"\bdear(er|est|ly)?\b",
    '"is stored", "is sharded", "is replicated", or "is" with a place': r"\b(lies|lie) (in|on|at|under|beside|along|here|there|over|whole)\b|\blies$",
    '"is not a"': r"(?<!\b[Tt]here )\b(is|are|was|were|be) no (?!longer|more\b|less|better|worse|faster|slower|shorter|lower|other\b|higher|earlier|later|doubt)",
    '"on several processes"': r"(?<!\bone )\b[Oo]f several processes\b",
    '"anonymous temporary file"': r"\bfiles? without a name\b",
    '"not finite"': r"\bnumbers? that (are|is) none\b",
    '"subclass"': r"\bwho inherits\b|\bwhoever inherits\b",
}
SKIPPED = (
    "tests/test_prose.py",
    "docs/log.md",
    "docs/devlog.md",
    "CHANGELOG.md",
)  # this list, and history that is not rewritten
# (file, part of the line): a phrase that is meant.
ALLOWED: set[tuple[str, str]] = set()


def files() -> list[Path]:
    """Every Python and Markdown file of the repository."""
    inside = [path for folder in ("cnnjax", "tests", "docs", "configs", "benchmarks", "examples", "deploy")
              for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]  # fmt: skip
    found = [*inside, *ROOT.glob("*.py"), *ROOT.glob("*.md")]
    return sorted(path for path in found if path.relative_to(ROOT).as_posix() not in SKIPPED)


def first_words(code: str) -> list[tuple[int, str]]:
    """(line, complaint) for each docstring that begins with one of `FIRST_WORDS`."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            word = re.match(r"\w*", text)[0] if text else ""
            if word in FIRST_WORDS:
                found.append(
                    (node.body[0].lineno, f"a docstring begins with {word!r}: write a verb, or a noun with its shape")
                )
    return found


def phrases(text: str, name: str = "") -> list[tuple[int, str]]:
    """(line, complaint) for each of `PHRASES` in a text; code in backticks does not count."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if any(file == name and part in line for file, part in ALLOWED):
            continue
        for instead, pattern in PHRASES.items():
            if match := re.search(pattern, re.sub(r"`[^`]*`", "``", line)):
                found.append((number, f"{match[0]!r}: write {instead}"))
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_follows_the_rule(path):
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    found = phrases(text, name) + (first_words(text) if path.suffix == ".py" else [])
    assert not found, "\n" + "\n".join(f"{name}:{line}: {complaint}" for line, complaint in sorted(found))


def test_an_allowed_line_is_still_there():
    assert [entry for entry in ALLOWED if entry[1] not in (ROOT / entry[0]).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("text", [
    "a wish of a process", "the array lies on the device", "it is no run", "of several processes", "numbers that are none",
    "a file without a name", "that is dear", "mends it", "who inherits",
])  # fmt: skip
def test_a_phrase_is_seen(text):
    assert phrases(f"x = 1\n# {text}\n")[0][0] == 2


@pytest.mark.parametrize("word", sorted(FIRST_WORDS))
def test_a_first_word_is_seen(word):
    assert first_words(f'def f():\n    """{word} it is."""\n')[0][0] == 2
    assert first_words(f'def f():\n    """Returns {word}."""\n') == []
