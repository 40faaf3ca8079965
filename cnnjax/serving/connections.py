"""Connections that end where a client is slow, or sends more than it may."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cnnjax.serving.limits import Limits

LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
READ = 2**18  # bytes that the event loop reads at once
FRAMES = 2  # bytes on the line for each byte of a body, at most: chunks of a body have heads of their own


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's HTTP/1.1, which itself limits neither the size of a head nor its time.

    `_bytes` counts those of the request under way, `_head` those of its headers. A body is limited by who reads it.

    Attributes:
        limits: of the subclass that `protocol` returns.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._bytes = self._head = 0
        self._stalled = None
        self._late = self.loop.call_later(self.limits.seconds, self._refuse, LATE)

    def data_received(self, data: bytes) -> None:
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(self.limits.seconds, self._refuse, LATE)
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > (
            self.limits.header + READ if self._late else FRAMES * self.limits.bytes + self.limits.header + READ
        ):
            self._refuse(LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.limits.header:
            raise ValueError("a head that is too large")  # the parser stops, and uvicorn answers 400

    def on_headers_complete(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._bytes = 0
        super().on_message_complete()

    def _refuse(self, answer: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()
        self._late = self._stalled = None
        super().connection_lost(exc)


def protocol(limits: Limits) -> type[Connection]:
    """Returns the connections of a server with limits for the head of a request and for a client that does not read its answers."""
    return type("Connection", (Connection,), {"limits": limits})
