"""The addresses of a server as an OpenAPI document, and as a page that needs no network."""

import json
from html import escape
from typing import Any

import cnnjax
from cnnjax.serving.state import State

ERROR = {"type": "object", "properties": {"error": {"type": "string", "description": "one line"}}}
ERRORS = {"400": "the request is not understood", "401": "no token, or a wrong one", "408": "too slow", "413": "too large, or too many images",
          "422": "no image could be read", "429": "too much at once; Retry-After says when to come back", "503": "the network is being loaded"}  # fmt: skip
PREDICTION = {
    "type": "object", "required": [],
    "properties": {
        "name": {"type": "string", "description": "of the file, where the form gave one"},
        "predicted": {"type": "string", "description": "the class that is called: the most probable one, or of two by the threshold"},
        "probability": {"type": "number", "description": "of that class"},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}, "description": "calibrated, of each class"},
        "unlike": {"type": "number", "description": "above 1: as unlike the training images as one validation image in a hundred"},
        "warning": {"type": "string"},
        "places": {"type": "string", "description": "with explain=1, where the network looks, as the data URL of a PNG"},
        "error": {"type": "string", "description": "why this image could not be read; then nothing else but the name"},
    },
}  # fmt: skip


def document(state: State) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of a server."""
    name = state.served.name if state.served else "NAME"
    here = f"/v2/models/{name}"
    told = _body("predictions", {"type": "object", "properties": {
        "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
        "model": {"type": "object", "description": "name and version of the network; of two classes the positive one and its threshold"}}})  # fmt: skip
    images = {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}
    sent = {"required": True, "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}}}},
        "application/json": {"schema": {"type": "object", "properties": {"images": images}}}}}  # fmt: skip
    explain = {
        "name": "explain",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "1: with a picture of where the network looks",
    }
    paths = {
        "/predict": {"post": _operation("Classifies images: one as the body, several as a form or as JSON with base64", told,
                                        requestBody=sent, parameters=[explain], errors=("400", "401", "408", "413", "422", "429", "503"))},
        f"{here}/infer": {"post": _operation("Classifies by the Open Inference Protocol", errors=("400", "401", "408", "413", "422", "429", "503"),
                                             requestBody={"required": True, "content": {"application/json": {"schema": {"type": "object"}}}})},
        here: {"get": _operation("Describes inputs and outputs by the Open Inference Protocol", errors=("401",))},
        f"{here}/ready": {"get": _operation("Says whether the network is ready", errors=("401", "503"))},
        "/v2": {"get": _operation("Describes the server by the Open Inference Protocol", errors=("401",))},
        "/v2/health/live": {"get": _operation("Says that the server lives")},
        "/v2/health/ready": {"get": _operation("Says whether the server is ready", errors=("503",))},
        "/health": {"get": _operation("Says that the server lives")},
        "/ready": {"get": _operation("Says whether it answers: not while it loads, nor once it is told to stop", errors=("503",))},
        "/model": {"get": _operation("Describes the network: classes, threshold, how good it is", errors=("401", "503"))},
        "/reload": {"post": _operation("Loads the newest version of the network; the old one answers until then. Needs a token",
                                       errors=("401", "409"))},
        "/metrics": {"get": _operation("Gives numbers about the server to Prometheus", errors=("401",))},
    }  # fmt: skip
    secured = {"security": [{"token": []}]} if state.tokens else {}
    return {"openapi": "3.1.0", "info": {"title": f"cnnjax: {name}", "version": cnnjax.__version__}, "paths": paths, **secured,
            "components": {"schemas": {"Prediction": PREDICTION, "Error": ERROR},
                           "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}}  # fmt: skip


def _body(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(
    summary: str, told: dict[str, Any] | None = None, errors: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    refused = {code: _body(ERRORS.get(code, "refused"), {"$ref": "#/components/schemas/Error"}) for code in errors}
    return {"summary": summary, **more, "responses": {"200": told or {"description": "done"}, **refused}}


def described(spec: dict[str, Any]) -> str:
    """Returns a document of `document` as a page of HTML."""
    rows = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            codes = "".join(
                f"<li><code>{escape(code)}</code> {escape(told['description'])}</li>"
                for code, told in operation["responses"].items()
            )
            sent = "".join(
                f"<li><code>{escape(kind)}</code></li>" for kind in operation.get("requestBody", {}).get("content", ())
            )
            body = f"<h3>Body</h3><ul>{sent}</ul>" if sent else ""
            rows.append(f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>{body}"
                        f"<details><summary>Answers</summary><ul>{codes}</ul></details></section>")  # fmt: skip
    fields = "".join(f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(kind.get('description', kind['type']))}</td></tr>"
                     for name, kind in spec["components"]["schemas"]["Prediction"]["properties"].items())  # fmt: skip
    header = " -H 'Authorization: Bearer TOKEN'" if "security" in spec else ""
    tensor = json.dumps({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["BASE64"]}]})
    infer = next(path for path in spec["paths"] if path.endswith("/infer"))
    examples = (f"curl{header} --data-binary @cell.png ADDRESS/predict\n"
                f"curl{header} -F images=@a.png -F images=@b.jpg ADDRESS/predict\n"
                f"curl{header} -H 'content-type: application/json' -d '{tensor}' ADDRESS{infer}")  # fmt: skip
    return (f"<!doctype html><html lang='en'><head><meta charset='utf-8'><link rel='icon' href='data:,'><meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<meta name='color-scheme' content='light dark'><title>{escape(spec['info']['title'])}</title><link rel='stylesheet' href='page.css'>"
            f"</head><body><main><h1>{escape(spec['info']['title'])}</h1><p><a href='openapi.json'>openapi.json</a> is the same for programs; "
            f"<a href='./'>the page</a> is for pictures.</p><pre>{escape(examples)}</pre>{''.join(rows)}<section><h2>A prediction</h2>"
            f"<table>{fields}</table></section></main></body></html>")  # fmt: skip
