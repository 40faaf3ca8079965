"""Clients that cut their connections, wait, lie and send garbage, beside some that ask properly.

    python tests/serving/broken_clients.py --workdir=runs/malaria-demo --minutes=10

starts a server and prints each minute its memory, open files and threads; exit code 1 where a proper request was not answered, or memory
grew by more than a tenth after the first two minutes.
"""

import argparse
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from serving_tools import png, port_of, told  # noqa: E402

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\n"


def broken_clients(service, seconds: float) -> int:
    """Runs clients that cut, wait, lie and send garbage, beside some that ask properly; returns how many of these were not answered."""
    random, end, bad = np.random.default_rng(0), time.monotonic() + seconds, []
    ways = [b"", HEAD, HEAD + b"content-length: 500\r\n\r\n" + png()[:50], b"\x16\x03\x01" + b"\x00" * 200, HEAD + b"x: y" * 5000,
            HEAD + b"content-length: 7\r\n\r\ngarbage", HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nabc", b"GET /" + b"a" * 30000,
            HEAD + b"content-length: -1\r\n\r\n", HEAD + b"content-type: application/json\r\ncontent-length: 3\r\n\r\n[[[",
            (HEAD + b"content-length: %d\r\n\r\n%b" % (len(png()), png())) * 20]  # fmt: skip

    def cut(number: int) -> None:
        own = np.random.default_rng(number)
        while time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port_of(service)), timeout=2) as client,
            ):
                data = ways[own.integers(len(ways))]
                client.sendall(data[: own.integers(len(data) + 1)] if own.random() < 0.3 else data)
                if own.random() < 0.5:
                    client.recv(200)
                if own.random() < 0.3:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # ends by a reset

    def proper() -> None:
        while time.monotonic() < end:
            try:
                status, _ = told(service, "/predict", png(int(random.integers(256))))
            except (OSError, json.JSONDecodeError) as error:
                status = error
            if status != 200:
                bad.append(status)

    threads = [threading.Thread(target=cut, args=(number,)) for number in range(8)] + [
        threading.Thread(target=proper) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(bad)


def soak() -> None:
    """Runs broken clients against a server in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    flags = parser.parse_args()
    command = [sys.executable, "launch.py", "--mode=serve", f"--workdir={flags.workdir}", "--port=0", "--limits=seconds=5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while " at http" not in (said := process.stdout.readline()):
            assert process.poll() is None, said
        service, memory, bad = SimpleNamespace(address=said.partition(" at ")[2].split()[0]), [], 0
        for minute in range(max(round(flags.minutes), 1)):
            bad += broken_clients(service, 60 * min(flags.minutes, 1))
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)
            files, threads = len(list(Path(f"/proc/{process.pid}/fd").iterdir())), re.search(r"Threads:\s+(\d+)", status)[1]
            print(
                f"minute {minute + 1}: {memory[-1]:.0f} MB, {files} open files, {threads} threads, {bad} not answered",
                flush=True,
            )
        process.terminate()
        code = process.wait(60)
    sys.exit(1 if bad or code or max(memory) > 1.1 * memory[min(1, len(memory) - 1)] else 0)


if __name__ == "__main__":
    soak()
