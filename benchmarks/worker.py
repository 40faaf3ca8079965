"""One side of a comparison, in a process of its own.

    python -m benchmarks.worker PEER SETTINGS          answers requests, a line of JSON each, until stdin ends
    python -m benchmarks.worker PEER SETTINGS first    does one training step, says so and ends

Between two requests it waits for a line on stdin and uses no processor time.
"""

import dataclasses
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable

from benchmarks.tasks import Settings

MODULES = {
    "cnnjax": "ours",
    "cnnjax-xla": "ours",
    "jax": "plain_jax",
    "keras-tensorflow": "keras_peer",
    "keras-jax": "keras_peer",
    "torch": "torch_peer",
    "torch-compile": "torch_peer",
    "cnnjax-checks": "checks",
}


class Desk:
    """Answers requests for a peer."""

    def __init__(self, name: str, settings: Settings):
        self._peer = importlib.import_module(f"benchmarks.peers.{MODULES[name]}").open_peer(settings, name)
        self._turns: dict[int, Callable[[], dict[str, float]]] = {}

    def about(self) -> dict:
        """{"platform", "device", "versions"}."""
        return self._peer.about()

    def losses(self, steps: int) -> dict:
        """{"inference": of the first weights, "training": of each of `steps` steps without dropout}."""
        found = self._peer.losses(steps)
        gc.collect()
        return found

    def prepare(self, what: str, batch: int = 0) -> dict:
        """Builds and warms up; for batches of so many images, or those of the settings."""
        if batch:
            self._peer.settings = dataclasses.replace(self._peer.settings, batch=batch)
        self._turns[batch] = getattr(self._peer, f"make_{what}")()
        return {}

    def turn(self, batch: int = 0) -> dict:
        """Measures once what was prepared for such batches: {measure: number}."""
        return self._turns[batch]()

    def curves(self, **more) -> dict:
        """Losses of training steps; see `peers.checks`."""
        return self._peer.curves(**more)

    def resume(self, **more) -> dict:
        """Runs that are stopped and continued; see `peers.checks`."""
        return self._peer.resume(**more)

    def device_memory(self) -> dict:
        """{"bytes": the most that was in use on the accelerator; 0 where nobody knows}."""
        return {"bytes": self._peer.device_memory()}


def main(name: str, settings: Settings, first: bool) -> None:
    """Serves, or does one step."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries is not an answer
    # The same processors for all: of some libraries no other limit holds for every thread.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    if first:
        peer = importlib.import_module(f"benchmarks.peers.{MODULES[name]}").open_peer(settings, name)
        peer.first_step()
        print(json.dumps({"done": True}), file=out, flush=True)
        return
    desk = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            desk = desk or Desk(name, settings)
            answer = getattr(desk, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0][:200]}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Settings(**json.loads(sys.argv[2])), sys.argv[3:] == ["first"])
    sys.stdout.flush()
    os._exit(0)  # some libraries take seconds to leave, and nobody waits for that
