"""Command line of cnnjax: `python launch.py --help`. The program is `cnnjax.__main__`; `cnnjax` is the installed command."""

from cnnjax.__main__ import program

if __name__ == "__main__":
    program()
