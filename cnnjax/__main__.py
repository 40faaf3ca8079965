"""The start of the command line: `cnnjax`, `python -m cnnjax` and `python launch.py`.

Nothing expensive is imported before the signals have handlers.
"""

import importlib.util
import os
import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def program() -> None:
    """Runs the command line and exits with its code."""
    if importlib.util.find_spec("fcntl") is None:
        print("error: cnnjax runs on Linux and macOS; on Windows run it in WSL: https://learn.microsoft.com/windows/wsl/install",
              file=sys.stderr)  # fmt: skip
        sys.exit(2)
    for number in SIGNALS:  # there is nothing to save yet, and the imports take seconds
        signal.signal(number, lambda *_: os._exit(75))
    from cnnjax.cli import run

    code = run(sys.argv)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the exit code is final
    if code in (2, 75):  # all is saved; Python would wait for the thread that compiles ahead
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
