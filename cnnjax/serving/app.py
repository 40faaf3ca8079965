"""The addresses of a server. Predictions go past the router, which would take as long as a small network."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from cnnjax.serving import protocol
from cnnjax.serving.batches import Answer, Request
from cnnjax.serving.bodies import Refused, images_of
from cnnjax.serving.rest import KNOWN, OPEN, router
from cnnjax.serving.served import File, Served
from cnnjax.serving.state import State

SMALL = 2**16  # bytes of a body that is taken apart in the event loop, and of a lone picture that is answered there
JSON = (b"content-type", b"application/json")


class App:
    """The ASGI application of a server."""

    def __init__(self, state: State):
        self._state, self._rest, self._limits, self._measures = state, router(state), state.limits, state.measures
        self._held = 0  # bytes of bodies
        self._client: Any = None  # whose request was the last

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers a request, whatever happens: an error of ours is one line for its sender."""
        if scope["type"] != "http":
            return
        start, path = time.perf_counter(), scope["path"]
        posted = {"/predict": self._predict, self._state.infer_path: self._infer}.get(path)
        if self._state.tokens and path not in OPEN and not self._state.tokens.accept(_header(scope, b"authorization")):
            code = await _refuse(send, Refused(401, "this server wants a token; send the header Authorization: Bearer TOKEN",
                                               {"www-authenticate": "Bearer"}))  # fmt: skip
        elif posted is None:
            code = await self._routed(scope, receive, send)
        elif scope["method"] != "POST":
            code = await _refuse(send, Refused(405, "send images with POST; /docs shows how", {"allow": "POST"}))
        else:
            code = await self._answer(posted, scope, receive, send)
        known = path if posted or path in KNOWN else "other"
        self._measures.request(known, code, time.perf_counter() - start)

    async def _routed(self, scope: dict, receive: Callable, send: Callable) -> int:
        code = 500

        async def noted(message: dict) -> None:
            nonlocal code
            code = message.get("status", code)
            await send(message)

        await self._rest(scope, receive, noted)
        return code

    async def _answer(
        self, posted: Callable[..., Awaitable[tuple[int, bytes]]], scope: dict, receive: Callable, send: Callable
    ) -> int:
        """Answers a request for predictions, or refuses it."""
        if self._state.in_flight >= self._limits.requests:
            return await _refuse(send, _busy(f"{self._state.in_flight} requests are under way"))
        self._state.in_flight += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                status, body = await posted(scope, receive)
        except Refused as refused:
            return await _refuse(send, refused)
        except TimeoutError:
            return await _refuse(
                send, Refused(408, f"no answer within {self._limits.seconds:g} seconds, in which the body has to come too")
            )
        except ConnectionResetError:
            return 499  # as nginx calls it: the client has gone
        except Exception as error:  # ours
            self._state.say(f"an answer failed ({type(error).__name__}: {str(error)[:200]})")
            return await _refuse(send, Refused(500, "the answer has failed; the server's log says why"))
        finally:
            self._state.in_flight -= 1
            self._held -= scope.get("held", 0)
        await send(
            {"type": "http.response.start", "status": status, "headers": [JSON, (b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})
        return status

    async def _body(self, scope: dict, receive: Callable) -> bytes:
        """Returns the body of a request, within the limits."""
        limits, parts, scope["held"] = self._limits, [], 0
        declared = _header(scope, b"content-length")
        most = Refused(413, f"a body of more than {limits.bytes:,} bytes; send smaller pictures, or fewer in a request")
        if declared and int(declared) > limits.bytes:
            raise most
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            scope["held"] += len(part)
            self._held += len(part)
            if scope["held"] > limits.bytes:
                raise most
            if self._held > limits.held:
                raise _busy(f"{self._held:,} bytes of requests wait")
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _taken(self, take: Callable, body: bytes, *rest: Any) -> Any:
        """Takes a body apart, a large one in a thread."""
        if len(body) <= SMALL:
            return take(body, *rest)
        return await asyncio.get_running_loop().run_in_executor(None, take, body, *rest)

    async def _answers(self, served: Served, files: list[File], client: Any) -> list[Answer]:
        """Returns the answers for some images. The one picture of a client that asks alone, a small one, is answered here at once."""
        before, self._client = self._client, client
        request = Request(served, len(files), self._state.loop.create_future())
        alone = (
            before == client
            and self._state.in_flight == len(files) == 1
            and served.is_quick
            and memoryview(files[0]).nbytes <= SMALL
        )
        if not (alone and self._state.batches.answer(request, files[0])):
            self._state.batches.submit(request, files)
            await request.future
        for answer in request.answers:
            far = bool(served.tells_unlike and answer.unlike and answer.unlike > 1)
            self._measures.image("" if answer.error else served.classes[answer.called], far)
        if all(answer.error for answer in request.answers):
            first = request.answers[0]
            raise Refused(500 if first.failed else 422, first.error)
        return request.answers

    async def _predict(self, scope: dict, receive: Callable) -> tuple[int, bytes]:
        """Answers `/predict`."""
        served, body = self._served(), await self._body(scope, receive)
        named = await self._taken(images_of, body, _header(scope, b"content-type").decode("latin-1"), self._limits.files)
        files, explains = [file for _, file in named], _explains(scope["query_string"])
        answers = await self._answers(served, files, scope["client"])
        told = [_told(served, name, answer) for (name, _), answer in zip(named, answers, strict=True)]
        if explains:
            for entry, file, answer in zip(told, files, answers, strict=True):
                if not answer.error:
                    entry["places"] = await self._places(served, file, entry["predicted"])
        model = {"name": served.name, "version": served.version}
        if served.positive >= 0:
            model |= {"positive": served.classes[served.positive], "threshold": served.threshold}
        return 200, json.dumps({"predictions": told, "model": model}, ensure_ascii=False, allow_nan=False).encode()

    async def _places(self, served: Served, file: File, label: str) -> str:
        """Returns a picture of where the network looks, as a data URL."""
        if served.seen is None:
            raise Refused(400, "this network does not show where it looks; leave out explain")
        png = await self._state.loop.run_in_executor(self._state.drawing, served.seen, file, label)
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"

    async def _infer(self, scope: dict, receive: Callable) -> tuple[int, bytes]:
        """Answers an inference request of the Open Inference Protocol."""
        served, body = self._served(), await self._body(scope, receive)
        named, tree = await self._taken(protocol.taken, body, self._limits.files)
        answers = await self._answers(served, [file for _, file in named], scope["client"])
        return 200, json.dumps(protocol.told(served, answers, tree), ensure_ascii=False, allow_nan=False).encode()

    def _served(self) -> Served:
        if self._state.served is None:
            raise Refused(503, "the network is being loaded; ask /ready and come back", {"retry-after": "2"})
        return self._state.served


def _told(served: Served, name: str, answer: Answer) -> dict[str, Any]:
    """Returns one entry of the predictions."""
    entry: dict[str, Any] = {"name": name} if name else {}
    if answer.error:
        return {**entry, "error": answer.error}
    p = answer.probabilities
    entry |= {
        "predicted": served.classes[answer.called],
        "probability": p[answer.called],
        "probabilities": dict(zip(served.classes, p, strict=True)),
    }
    if answer.unlike is not None:
        entry["unlike"] = answer.unlike
        if served.tells_unlike and answer.unlike > 1:
            entry["warning"] = "unlike the training images: do not rely on this class"
    return entry


def _explains(query: bytes) -> bool:
    """Returns whether the query of an address asks for pictures of where the network looks. Raises Refused where it asks for something else."""
    options = parse_qs(query.decode("latin-1"), keep_blank_values=True) if query else {}
    chosen = options.pop("explain", ["0"])[-1].lower()
    if options or chosen not in ("0", "false", "1", "true"):
        raise Refused(400, f"the address asks for {query.decode('latin-1')[:80]!r}; it may ask for explain=1 alone")
    return chosen in ("1", "true")


def _header(scope: dict, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _busy(why: str) -> Refused:
    return Refused(429, f"{why}; come back in a second", {"retry-after": "1"})


async def _refuse(send: Callable, refused: Refused) -> int:
    """Sends a refusal. Its connection ends: of the body may be more to come."""
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(name.encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status,
                "headers": [JSON, (b"content-length", b"%d" % len(body)), (b"connection", b"close"), *headers]})  # fmt: skip
    await send({"type": "http.response.body", "body": body})
    return refused.status
