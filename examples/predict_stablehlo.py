"""Classifies images with an exported network, without cnnjax: python predict_stablehlo.py FILE.stablehlo IMAGE ..."""

import json
import sys

import jax.export
import numpy as np
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


file = open(sys.argv[1], "rb").read()  # noqa: SIM115
size = 8 + int.from_bytes(file[:8], "little")
card, network = json.loads(file[8:size])["cnnjax"], jax.export.deserialize(bytearray(file[size:]))
for path in sys.argv[2:]:
    p = np.asarray(network.call(pixels(path, card["preprocessing"])))[0]
    called = p.argmax()
    if len(p) == 2 and card["threshold"] != 0.5:  # of two classes the positive one is called from the threshold on
        called = card["positive"] if p[card["positive"]] >= card["threshold"] else 1 - card["positive"]
    print(json.dumps({"path": path, "class": card["classes"][called], "probabilities": p.tolist()}))
