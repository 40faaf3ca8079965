"""Classifies images with an exported network, without cnnjax: python predict_onnx.py FILE.onnx IMAGE ..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def pixels(path, how):  # uint8 [1, height, width, 3]; rows are resized first, then columns
    image, shape = ImageOps.exif_transpose(Image.open(path)).convert("RGB"), (how["size"], how["width"] or how["size"])
    scale, sides, method = min(shape[0] / image.height, shape[1] / image.width), shape, how["resize"]
    if method == "pad":
        sides, method = [max(round(side * scale), 1) for side in (image.height, image.width)], "bilinear"
    for size in (sides[1], image.height), (sides[1], sides[0]):
        image = image.resize(size, Image.Resampling[method.upper()])
    edges = [((whole - side) // 2, whole - side - (whole - side) // 2) for whole, side in zip(shape, sides, strict=True)]
    return np.pad(image, (*edges, (0, 0)))[None]


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["cnnjax"])
for path in sys.argv[2:]:
    p = session.run(None, {"images": pixels(path, card["preprocessing"])})[0][0]
    called = p.argmax()
    if len(p) == 2 and card["threshold"] != 0.5:  # of two classes the positive one is called from the threshold on
        called = card["positive"] if p[card["positive"]] >= card["threshold"] else 1 - card["positive"]
    print(json.dumps({"path": path, "class": card["classes"][called], "probabilities": p.tolist()}))
