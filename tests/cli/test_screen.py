"""Names that a stranger has chosen do nothing to a terminal."""

import io

import pytest

from cnnjax.cli import run
from cnnjax.progress import Console, printable

EVIL = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "back\x08\x08", "\u202egnp.exe", "\x7f", "line\rover"]


@pytest.mark.parametrize("name", EVIL)
def test_what_controls_a_terminal_is_spelled_out(name, tmp_path, capsys):
    stream = io.StringIO()
    Console(stream).message(f"class {name}")
    Console(stream).warn(f"file {name}")
    assert run(["launch.py", "--mode=report", f"--workdir={tmp_path}/{name}"]) == 2
    shown = stream.getvalue() + capsys.readouterr().err
    assert shown.count(printable(name)) >= 3 and name not in shown


def test_every_other_text_is_shown_as_it_is():
    for text in ("naïve ü 漢字 🌸", "a\tb\nc", "×→±"):
        assert printable(text) == text
