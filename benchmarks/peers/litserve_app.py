"""LitServe around ONNX Runtime, with its batches, as its documentation would have one write it.

python litserve_app.py FILE.onnx PORT
"""

import base64
import io
import json
import sys

import litserve
import numpy as np
import onnxruntime
from PIL import Image


class Classify(litserve.LitAPI):
    """Decodes, stacks and predicts."""

    def __init__(self, path: str, **options):
        super().__init__(**options)
        self._path = path

    def setup(self, device: str) -> None:
        """Opens the file in the worker's process."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self._card = json.loads(self._session.get_modelmeta().custom_metadata_map["cnnjax"])

    def decode_request(self, request: dict) -> np.ndarray:
        """uint8 [height, width, 3] of a body {"image": BASE64}."""
        size = self._card["preprocessing"]["size"]
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of a batch."""
        return self._session.run(None, {"images": np.asarray(images)})[0]

    def encode_response(self, p: np.ndarray) -> dict:
        """Names the classes."""
        best = int(p.argmax())
        return {
            "predicted": self._card["classes"][best],
            "probabilities": dict(zip(self._card["classes"], p.tolist(), strict=True)),
        }


if __name__ == "__main__":
    api = Classify(sys.argv[1], max_batch_size=32, batch_timeout=float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False
    )
