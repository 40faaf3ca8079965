"""Servers side by side: how many requests each answers in a second, and how long the slowest of a hundred takes.

    python -m benchmarks.serving --run=runs/malaria-demo --litserve=PYTHON --json=serving.json

All sides have the same network, the same images and the same bodies, {"image": BASE64}: `--mode=serve` of a run; the same server with the
run as an exported ONNX file; a plain Starlette application around ONNX Runtime; LitServe around ONNX Runtime. Each is a process of its
own and is stopped while another has its turn. In every round each side has a turn for each number of clients. The clients are in this
process, on the same cores; each sends its next request when it has its answer. Ratios are medians of the rounds' ratios.
PYTHON is that of an environment with litserve, onnxruntime and pillow.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import uvloop

from benchmarks import load

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
WARM = 0.3  # seconds of a turn before it counts
OURS = ("cnnjax", "cnnjax-onnx")


class Client(asyncio.Protocol):
    """One client on one connection: a request, its answer, the next request.

    Args:
        requests: bytes of whole requests, one after the other and again from the first.
        seconds: gets how long each answer took.
        first: number of the request to begin with.
    """

    def __init__(self, requests: list[bytes], seconds: list[float], first: int):
        self._requests, self._seconds, self._next = requests, seconds, first
        self.bad, self.last, self._buffer, self._need = 0, b"", b"", 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Sends the first request."""
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self._start = time.perf_counter()
        self.transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        """Notes an answer as soon as it is whole, and sends the next request."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = int(re.search(rb"content-length: *(\d+)", self._buffer[:head], re.IGNORECASE)[1])
        if len(self._buffer) < head + 4 + length:
            return
        self._seconds.append(time.perf_counter() - self._start)
        self.bad += not self._buffer.startswith(b"HTTP/1.1 200")
        self.last, self._buffer = self._buffer[head + 4 :], b""
        self._send()


async def _drive(port: int, requests: list[bytes], clients: int, seconds: float) -> tuple[list[float], float, int]:
    loop, taken = asyncio.get_running_loop(), []
    made = [await loop.create_connection(lambda i=i: Client(requests, taken, i), "127.0.0.1", port) for i in range(clients)]
    await asyncio.sleep(WARM)
    taken.clear()
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    found, took = list(taken), time.perf_counter() - start
    for transport, _ in made:
        transport.abort()
    return found, took, sum(client.bad for _, client in made)


def drive(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Runs clients against a server; returns requests in a second, the median and the 99th percentile in milliseconds, and bad answers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found, took, bad = runner.run(_drive(port, requests, clients, seconds))
    p50, p99 = np.percentile(found, [50, 99]) * 1e3 if found else (float("inf"),) * 2
    return {"rate": len(found) / took, "p50": float(p50), "p99": float(p99), "bad": bad}


def worked(group: int) -> float:
    """Returns the seconds that all processes of a group have worked. Linux only."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def commands(run: str, onnx: str, litserve: str, wanted: list[str]) -> dict[str, list[str]]:
    """Returns the command of each side, without its port."""
    ours = [sys.executable, str(ROOT / "launch.py"), "--mode=serve"]
    every = {
        "cnnjax": [*ours, f"--workdir={run}", "--port={port}"],
        "cnnjax-onnx": [*ours, f"--model={onnx}", "--port={port}"],
        "starlette": [sys.executable, str(PEERS / "starlette_app.py"), onnx, "{port}"],
        "litserve": [litserve, str(PEERS / "litserve_app.py"), onnx, "{port}"],
    }  # fmt: skip
    return {name: command for name, command in every.items() if name in wanted and (name != "litserve" or litserve)}


@contextlib.contextmanager
def servers(sides: dict[str, list[str]], body: bytes):
    """Starts all sides and stops them until their turn; yields name -> (process, port), and checks that all answer the same."""
    started, answers = {}, {}
    try:
        for name, command in sides.items():
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            started[name] = (subprocess.Popen([part.format(port=port) for part in command], stdout=subprocess.DEVNULL, start_new_session=True,
                                              cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}), port)  # fmt: skip
            answers[name] = _first(name, *started[name], body)
            os.killpg(started[name][0].pid, signal.SIGSTOP)
        same = {tuple(np.round(list(p.values()), 3)) for p in answers.values()}
        if len(same) > 1:
            sys.exit(f"the sides do not answer the same: {answers}")
        yield started
    finally:
        for process, _ in started.values():
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _first(name: str, process: subprocess.Popen, port: int, body: bytes) -> dict[str, float]:
    """Waits for the first answer of a side; returns its probabilities."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"content-type": "application/json"})
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            tree = json.load(answer)
            return tree.get("predictions", [tree])[0]["probabilities"]
        if process.poll() is not None:
            sys.exit(f"{name} did not start: {' '.join(process.args)}")
        time.sleep(0.2)
    sys.exit(f"{name} gave no answer within two minutes")


def measure(started: dict, requests: list[bytes], clients: list[int], rounds: int, seconds: float) -> dict:
    """Returns side -> number of clients -> what `drive` gives, for each round."""
    found: dict = {name: {str(count): [] for count in clients} for name in started}
    for turn in range(rounds):
        order = list(started)[:: 1 if turn % 2 else -1]
        for count in clients:
            for name in order:
                process, port = started[name]
                os.killpg(process.pid, signal.SIGCONT)
                before = worked(process.pid)
                row = drive(port, requests, count, seconds)
                row["cpu"] = (worked(process.pid) - before) * 1e3 / max(row["rate"] * (seconds + WARM), 1)
                found[name][str(count)].append(row)
                os.killpg(process.pid, signal.SIGSTOP)
    return found


def report(found: dict, clients: list[int]) -> list[str]:
    """Returns a row for each side and number of clients, as Markdown."""
    lines = ["| clients | server | requests/s | p50, ms | p99, ms | CPU of a request, ms | cnnjax has times the rate | its p99 is |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for count in map(str, clients):
        for name, sides in found.items():
            rate, p50, p99, cpu = (
                statistics.median(row[key] for row in sides[count]) for key in ("rate", "p50", "p99", "cpu")
            )
            ratios = [""] * 2
            if name not in OURS and "cnnjax" in found:
                pairs = list(zip(found["cnnjax"][count], sides[count], strict=True))
                ratios = [
                    f"{statistics.median(own[key] / other[key] for own, other in pairs):.2f}" for key in ("rate", "p99")
                ]
            lines.append(
                f"| {count} | {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu:.2f} | {ratios[0]} | {ratios[1]} |"
            )
    return lines


def main() -> None:
    """Measures, prints a table, and writes the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run whose test pictures are sent")
    parser.add_argument("--onnx", default="", help="the same run as a file; default: it is exported")
    parser.add_argument("--images", default="", help="folder of the pictures to send; default: those of the run's test")
    parser.add_argument(
        "--litserve", default="", help="Python of an environment with litserve; without it that side is left out"
    )
    parser.add_argument("--sides", default="cnnjax,cnnjax-onnx,starlette,litserve")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", default="", help="file for all numbers")
    flags = parser.parse_args()
    onnx = flags.onnx or f"{flags.run.rstrip('/')}-serving.onnx"
    if not Path(onnx).exists():
        subprocess.run(
            [sys.executable, str(ROOT / "launch.py"), "--mode=export", f"--workdir={flags.run}", f"--output={onnx}"],
            check=True,
            cwd=ROOT,
        )
    files = sorted(path for path in Path(flags.images or f"{flags.run}/eval/test-images").iterdir() if path.is_file())
    bodies = [json.dumps({"image": base64.b64encode(path.read_bytes()).decode()}).encode() for path in files]
    requests = [b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
                for body in bodies]  # fmt: skip
    clients = [int(count) for count in flags.clients.split(",")]
    before = load.busy_seconds(), load.own_seconds(), time.time()
    with servers(commands(flags.run, onnx, flags.litserve, flags.sides.split(",")), bodies[0]) as started:
        found = measure(started, requests, clients, flags.rounds, flags.seconds)
    print("\n".join(report(found, clients)))
    print(
        f"{len(bodies)} pictures of {np.mean(list(map(len, bodies))) / 1024:.1f} KB as base64; load {os.getloadavg()[0]:.1f}"
    )
    bad = sum(row["bad"] for sides in found.values() for rows in sides.values() for row in rows)
    if bad:
        sys.exit(f"{bad} answers were not 200")
    if flags.json:
        Path(flags.json).write_text(
            json.dumps({"settings": vars(flags), "seconds": time.time() - before[2], "rounds": found}, indent=1)
        )


if __name__ == "__main__":
    main()
