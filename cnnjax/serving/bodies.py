"""Images in the body of a request: raw, as a form, as JSON with base64, and as tensors of the Open Inference Protocol."""

import binascii
import contextlib
import json
import re
from typing import Any

import numpy as np
import pybase64

from cnnjax.serving.served import File

RAW = 'send the bytes of an image, a form with files, or JSON as in {"images": [BASE64]}'
NAMED = 200  # letters of a name that are given back
TENSORS = 'write inputs: [{"name": "images", "datatype": "UINT8", "shape": [n, height, width, 3], "data": [...]}], or "datatype": "BYTES" with files in base64'


class Refused(Exception):
    """A request that is not answered; the message is one line for its sender.

    Args:
        status: of HTTP.
        message: what was given, what is allowed, what to do.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}


def images_of(body: bytes, kind: str, most: int) -> list[tuple[str, File]]:
    """Returns (name, file) of the images in the body of a request to `/predict`.

    Args:
        body: all of it.
        kind: its content type; what is neither a form nor JSON is the file itself.
        most: images.

    Raises:
        Refused: none, too many, or a body that is not of its type.
    """
    plain = kind.partition(";")[0].strip().lower()
    if plain == "application/json":
        found = _of_json(_json(body))
    elif plain == "multipart/form-data":
        found = _of_form(body, kind)
    elif body:
        return [("", body)]
    else:
        raise Refused(400, f"the body is empty; {RAW}")
    if not found:
        raise Refused(400, f"no image among what was sent; {RAW}")
    return _few(found, most)


def _few(found: list, most: int) -> list:
    if len(found) > most:
        raise Refused(413, f"{len(found)} images in one request, more than {most}; send them in several")
    return found


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON ({str(error)[:100]})") from None


def _of_json(tree: Any) -> list[tuple[str, File]]:
    own = tree.get("images", tree.get("image")) if isinstance(tree, dict) else None
    texts = [own] if isinstance(own, str) else own
    if not isinstance(texts, list):
        raise Refused(400, 'the JSON has no images; write {"images": [BASE64, BASE64]}')
    return [("", _base64(text)) for text in texts]


def _base64(text: Any) -> bytes:
    """Returns the bytes of base64, also of a data URL, of the alphabet for addresses, of several lines, and without its padding."""
    with contextlib.suppress(TypeError, ValueError):  # nearly always
        return pybase64.b64decode(text, validate=True)
    try:
        plain = text.rpartition(";base64,")[2] if text.startswith("data:") else text
        letters = re.sub(r"\s+", "", plain).rstrip("=").replace("-", "+").replace("_", "/")
        return pybase64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise Refused(400, "an image is not in base64; write the bytes of its file in base64") from None


def _of_form(body: bytes, kind: str) -> list[tuple[str, File]]:
    from python_multipart import multipart

    found: list[tuple[str, File]] = []
    header, headers, data = [b"", b""], {}, bytearray()

    def begin() -> None:
        headers.clear()
        data.clear()

    def end_header() -> None:
        headers[header[0].lower()] = header[1]
        header[:] = [b"", b""]

    def end() -> None:
        options = multipart.parse_options_header(headers.get(b"content-disposition", b""))[1]
        if b"filename" not in options:
            name = options.get(b"name", b"").decode(errors="replace")[:NAMED]
            raise Refused(400, f"the part {name!r} of the form is not a file; with curl write -F 'images=@FILE'")
        found.append((options[b"filename"].decode(errors="replace")[:NAMED], bytes(data)))

    def more(place: int):
        def take(part: bytes, start: int, stop: int) -> None:
            header[place] += part[start:stop]

        return take

    boundary = multipart.parse_options_header(kind)[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "the form has no boundary; with curl write -F 'images=@FILE' and no content type")
    calls = {"on_part_begin": begin, "on_part_data": lambda part, start, stop: data.extend(part[start:stop]), "on_part_end": end,
             "on_header_field": more(0), "on_header_value": more(1), "on_header_end": end_header}  # fmt: skip
    ended = []
    try:
        parser = multipart.MultipartParser(boundary, {**calls, "on_end": lambda: ended.append(True)})
        parser.write(body)
        parser.finalize()
    except multipart.FormParserError as error:
        raise Refused(400, f"the form is damaged ({str(error)[:100]})") from None
    if not ended:
        raise Refused(400, "the form has no end; it was cut short")
    return found


def tensors_of(body: bytes, most: int) -> tuple[list[tuple[str, File]], dict[str, Any]]:
    """Returns the images in the body of an inference request, and the request.

    Raises:
        Refused: as in `images_of`, and a tensor that is not of images.
    """
    tree = _json(body)
    inputs = tree.get("inputs") if isinstance(tree, dict) else None
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise Refused(400, f"the request does not have one input; {TENSORS}")
    kind, shape, values = (inputs[0].get(key) for key in ("datatype", "shape", "data"))
    if not (isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape) and isinstance(values, list)):
        raise Refused(400, f"the input has no shape or no data; {TENSORS}")
    if kind == "BYTES":
        texts = np.asarray(values, object).ravel().tolist()
        if len(shape) not in (1, 2) or int(np.prod(shape, dtype=object)) != len(texts):
            raise Refused(400, f"{len(texts)} files are not of shape {shape}; {TENSORS}")
        return [("", _base64(text)) for text in _few(texts, most)], tree
    if kind != "UINT8" or len(shape) != 4 or shape[3] != 3:
        raise Refused(400, f"an input of type {str(kind)[:20]} and shape {str(shape)[:80]}; {TENSORS}")
    if shape[0] > most:
        raise Refused(413, f"{shape[0]} images in one request, more than {most}; send them in several")
    try:
        pixels = np.asarray(values)
        whole = pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
        pixels = pixels.astype(np.uint8).reshape(shape) if whole else None
    except (ValueError, OverflowError, MemoryError):
        pixels = None
    if pixels is None:
        raise Refused(400, f"the data are not {' x '.join(map(str, shape))} whole numbers from 0 to 255; {TENSORS}")
    return [("", image) for image in pixels], tree
