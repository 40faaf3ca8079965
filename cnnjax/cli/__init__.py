"""The command line: flags, modes, exit codes, errors of one line. `cnnjax.__main__` starts it."""

from cnnjax.cli.flags import parse
from cnnjax.cli.program import run

__all__ = ["parse", "run"]
