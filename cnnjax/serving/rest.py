"""Everything of a server but the predictions: its page, its health, its numbers, and a reload."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cnnjax.serving import protocol
from cnnjax.serving.openapi import described, document
from cnnjax.serving.served import Served
from cnnjax.serving.state import State

HERE = Path(__file__).parent
OPEN = frozenset(
    {"/", "/page.js", "/page.css", "/health", "/ready", "/v2/health/live", "/v2/health/ready"}
)  # without a token
KNOWN = OPEN | {"/metrics", "/model", "/docs", "/openapi.json", "/reload", "/v2"}  # told apart in the numbers
KINDS = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
SECURED = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
                               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache",
}  # fmt: skip


def router(state: State) -> Starlette:
    """Returns the application of all addresses but those of predictions."""

    def served() -> Served:
        if state.served is None:
            raise HTTPException(503, "the network is being loaded; ask /ready and come back", {"retry-after": "2"})
        return state.served

    async def health(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": state.is_ready}, 200 if state.is_ready else 503)

    async def measures(request: Request) -> Response:
        return Response(state.measures.text(state.in_flight), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def model(request: Request) -> Response:
        return JSONResponse(served().to_dict())

    async def reload(request: Request) -> Response:
        if not state.tokens:
            raise HTTPException(
                403, "only who has a token may reload: start the server with --token_file=FILE, or send it SIGHUP"
            )
        code, line = await state.reload()
        return JSONResponse({"reload": line} if code == 200 else {"error": line}, code)

    async def about(request: Request) -> Response:
        return JSONResponse(protocol.server())

    async def metadata(request: Request) -> Response:
        return JSONResponse(protocol.model(own(request)))

    async def model_ready(request: Request) -> Response:
        return JSONResponse({"name": own(request).name, "ready": state.is_ready}, 200 if state.is_ready else 503)

    def own(request: Request) -> Served:
        name, version, found = request.path_params["name"], request.path_params.get("version"), served()
        if name != found.name or version not in (None, found.version):
            raise HTTPException(404, f"no such model; this server has {found.name}, version {found.version}")
        return found

    async def specification(request: Request) -> Response:
        return JSONResponse(document(state))

    async def documentation(request: Request) -> Response:
        return Response(described(document(state)), media_type=KINDS["page.html"], headers=SECURED)

    gets = {"/health": health, "/v2/health/live": health, "/ready": ready, "/v2/health/ready": ready, "/metrics": measures, "/model": model,
            "/openapi.json": specification, "/docs": documentation, "/v2": about, "/v2/models/{name}": metadata,
            "/v2/models/{name}/ready": model_ready, "/v2/models/{name}/versions/{version}": metadata,
            "/v2/models/{name}/versions/{version}/ready": model_ready}  # fmt: skip
    files = [
        Route(address, _file(name))
        for address, name in {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}.items()
    ]
    routes = [*(Route(path, answer) for path, answer in gets.items()), Route("/reload", reload, methods=["POST"]), *files]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


def _file(name: str):
    """Returns what answers with a file of this room: it is read once, and no path from outside leads to another."""
    content = (HERE / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=KINDS[name], headers=SECURED)

    return answer


async def _refused(request: Request, error: HTTPException) -> Response:
    told = {404: "there is nothing at this address; /docs lists the addresses",
            405: f"{request.method} is not for this address; /docs lists the addresses"}  # fmt: skip
    line = error.detail if error.detail not in ("Not Found", "Method Not Allowed") else told[error.status_code]
    return JSONResponse({"error": line}, error.status_code, error.headers)
