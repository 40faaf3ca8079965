"""A server from its start to its end: loading, signals, reloads, and the requests that are still under way at the end."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
import uvloop

from cnnjax import data as data_lib
from cnnjax import kernels
from cnnjax.cpus import usable_cpus
from cnnjax.errors import DataError, Stopped, UserError
from cnnjax.progress import Progress
from cnnjax.serving.app import App
from cnnjax.serving.batches import Batches
from cnnjax.serving.connections import protocol
from cnnjax.serving.limits import Limits
from cnnjax.serving.measures import Measures
from cnnjax.serving.served import Served
from cnnjax.serving.state import State
from cnnjax.serving.tokens import Tokens

THREADS = 4  # that decode, at most: beyond, the event loop is what limits
LOCAL = ("127.0.0.1", "::1", "localhost")


class Service:
    """A server of one network; `run` returns when it has ended.

    Args:
        load: loads the network, which takes seconds; called again for a reload.
        host, port: where it listens; port 0: a free one.
        limits: of what clients may use.
        tokens: who may use it; none: everybody.
        origins: pages of which addresses may use it from a browser, as "https://example.org"; none: its own.
        latency: seconds that an image may wait for others of its batch.
        progress: hears what it does.

    Attributes:
        address: "http://127.0.0.1:8000".
        state: what its answers share.
    """

    def __init__(self, load: Callable[[], Served], host: str = "127.0.0.1", port: int = 8000, *, limits: Limits = Limits(),  # noqa: B008 (frozen)
                 tokens: Callable[[], Tokens] = Tokens, origins: tuple[str, ...] = (), latency: float = 0.0,
                 progress: Progress | None = None):  # fmt: skip
        self._load, self._latency, self._read_tokens, self._progress = load, latency, tokens, progress or Progress()
        self._leaving = False
        self.state = State(limits, tokens(), Measures(), self._progress.warn, self.reload)
        self._socket = listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._socket.getsockname()[1]}"
        asgi = App(self.state)
        if origins:
            from starlette.middleware.cors import CORSMiddleware

            asgi = CORSMiddleware(
                asgi, origins, allow_methods=["GET", "POST"], allow_headers=["authorization", "content-type"]
            )
        self._server = _Server(uvicorn.Config(
            asgi, http=protocol(limits), ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
            proxy_headers=False, server_header=False, limit_concurrency=limits.connections, backlog=min(limits.connections, 2048),
            timeout_keep_alive=limits.idle, timeout_graceful_shutdown=int(limits.seconds) + 1,
        ))  # fmt: skip

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT or `stop`; then answers what is under way.

        Raises:
            UserError: from `load`.
            Stopped: it was stopped before the network was loaded.
        """
        with data_lib.quiet(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # quiet once, for all threads
            runner.run(self._run())

    def stop(self) -> None:
        """Ends the server at once, after the requests that are under way; from any thread."""
        self.state.is_ready, self._leaving = False, True
        self._server.should_exit = True

    async def _run(self) -> None:
        state, self._loop = self.state, asyncio.get_running_loop()
        threads = min(max(usable_cpus(), 2), THREADS)  # one decodes while another computes
        state.loop, state.batches = (
            self._loop,
            Batches(self._loop, state.limits, threads, self._latency, state.measures.batch),
        )
        self._signals()
        serving = asyncio.create_task(self._server.serve([self._socket]))
        try:
            failed = await self._first(serving)
            await serving
        finally:
            self.stop()
            await serving
            state.batches.close()
            state.drawing.shutdown(wait=False, cancel_futures=True)
            kernels.limit_threads()
        if failed is not None:
            raise failed
        if state.served is None:
            raise Stopped("stopped before the network was loaded")
        self._progress.message("stopped; every request that had come was answered")

    async def _first(self, serving: asyncio.Task) -> Exception | None:
        """Loads the network for the first time; returns why that failed, or None."""
        loading = self._loop.create_future()
        threading.Thread(target=self._loaded, args=(loading,), daemon=True).start()  # a stop does not wait for it
        await asyncio.wait({loading, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return None
        if error := loading.exception():
            self._server.should_exit = True
            return error
        self._use(loading.result())
        self._progress.message(
            f"serving  {self.state.served.name}, version {self.state.served.version}, at {self.address} (Ctrl-C ends it)"
        )
        return None

    def _loaded(self, loading: asyncio.Future) -> None:
        """Loads and compiles, in a thread."""

        def told(set_: Callable, value) -> None:
            if not loading.done():
                set_(value)

        try:
            served = self._load()
            if self.state.served is None or served.version != self.state.served.version:
                served = served.prepare(self.state.limits.batch)
            done = (loading.set_result, served)
        except Exception as error:
            done = (loading.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(told, *done)

    def _use(self, served: Served) -> None:
        self.state.served, self.state.is_ready = served, not self._leaving
        self.state.measures.network(served.name, served.version)

    async def reload(self) -> tuple[int, str]:
        """Loads the network and the tokens again; the old ones answer until the new ones are there, and stay where that fails.

        Returns:
            A status of HTTP, and a line.
        """
        state = self.state
        if state.served is None or self._reloading.locked():
            return 409, "a network is being loaded already; ask again when that is done"
        async with self._reloading:
            loading, before = self._loop.create_future(), state.served.version
            threading.Thread(target=self._loaded, args=(loading,), daemon=True).start()
            try:
                served, tokens = await loading, self._read_tokens()
            except Exception as error:
                why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                line = f"reload failed, version {before} stays: {why}".replace("\n", " ")
                state.measures.load("failed")
                self._progress.warn(line)
                return 500, line
            state.tokens = tokens
            if served.version == before:
                state.measures.load("same")
                line = f"version {before} is still the newest"
            else:
                self._use(served)
                state.measures.load("new")
                line = f"version {served.version} answers now, before it {before}"
            self._progress.message(f"reload   {line}")
            return 200, line

    def _signals(self) -> None:
        self._reloading, self._tasks = asyncio.Lock(), set()
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop.add_signal_handler(signal.SIGINT, self.stop)
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._keep(self.reload()))

    def _drain(self) -> None:
        """Says at `/ready` that no more requests are welcome, answers those that still come for a while, and ends."""
        self.state.is_ready, self._leaving = False, True
        self._loop.call_later(self.state.limits.drain if self.state.served else 0, self.stop)

    def _keep(self, coroutine) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, after which the process would die of the signal."""

    def capture_signals(self):
        return contextlib.nullcontext()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        DataError: the port is taken or may not be used, or there is no such address.
    """
    found = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        return found
    except (OSError, OverflowError, UnicodeError) as error:
        if found is not None:
            found.close()
        raise DataError(f"cannot listen at {host}, port {port} ({getattr(error, 'strerror', None) or error}); name another with --host=ADDRESS or "
                        "--port=NUMBER, or --port=0 for a free one") from None  # fmt: skip
