"""A plain Starlette application around ONNX Runtime, as its documentation would have one write it.

python starlette_app.py FILE.onnx PORT
"""

import base64
import io
import json
import sys

import numpy as np
import onnxruntime
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def network(path: str) -> tuple[onnxruntime.InferenceSession, dict]:
    """Opens an exported file; its threads do not spin, for on the same cores that takes from the server and its clients."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["cnnjax"])


def pixels(data: bytes, card: dict) -> np.ndarray:
    """Decodes and resizes by Pillow: uint8 [height, width, 3]."""
    size = card["preprocessing"]["size"]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def application(path: str) -> Starlette:
    """Returns the application, with one address."""
    session, card = network(path)

    def answer(text: str) -> dict:
        p = session.run(None, {"images": pixels(base64.b64decode(text), card)[None]})[0][0]
        best = int(p.argmax())
        return {"predicted": card["classes"][best], "probabilities": dict(zip(card["classes"], p.tolist(), strict=True))}

    async def predict(request: Request) -> JSONResponse:
        tree = await request.json()
        return JSONResponse(await run_in_threadpool(answer, tree["image"]))

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]), access_log=False, log_level="warning")
