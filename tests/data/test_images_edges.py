"""Image files at the edges: cut off anywhere, lying headers of every format, decoders that share memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import images, pixels
from cnnjax.data.images import ImageError

PHOTO = np.stack([*np.meshgrid(np.arange(0, 240, 4), np.arange(0, 200, 4)), np.full((50, 60), 90)], -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}),
                                           ("BMP", {}), ("TIFF", {}), ("GIF", {})])  # fmt: skip
def test_file_cut_off_in_its_pixels_is_damaged_or_whole(kind, options):
    data = encoded(NOISE, kind, **options)
    whole = images.decode(data)
    for keep in np.linspace(1, len(data) - 64, 25).astype(int):
        try:
            decoded = images.decode(data[:keep])
        except ImageError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert np.array_equal(decoded, whole), f"{keep} of {len(data)} bytes gave other pixels"


def test_damaged_png_is_found_by_its_checksum():
    data = bytearray(encoded(NOISE, "PNG", compress_level=0))  # stored: any byte decodes
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError):
        images.decode(bytes(data))


def test_pixels_of_one_file_survive_the_next():
    first = images.decode(encoded(PHOTO, "PNG"))
    small, _ = images.decode_resized(encoded(PHOTO, "PNG"), 16, "bilinear")
    before = small.copy()
    images.decode(encoded(NOISE, "PNG"))
    images.decode_resized(encoded(NOISE, "PNG"), 16, "bilinear")
    assert np.array_equal(first, PHOTO) and np.array_equal(small, before)


def png_header(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")  # fmt: skip


def lying(kind):
    data = bytearray(encoded(PHOTO, kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 60000, 60000)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


@pytest.mark.parametrize("data", [png_header(60000, 60000), png_header(2**31 - 1, 2**31 - 1), lying("JPEG"), lying("BMP"),
                                  lying("GIF")])  # fmt: skip
@pytest.mark.parametrize("quick", [True, False])
def test_lying_header_is_refused_before_memory_is_taken(monkeypatch, data, quick):
    if not quick:
        monkeypatch.setattr(pixels, "available", lambda: False)
    with pytest.raises(ImageError, match="pixels, more than"):
        images.decode(data)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_header_without_pixels_is_refused(size):
    with pytest.raises(ImageError):
        images.decode(png_header(*size))


@pytest.mark.parametrize("method", ["bilinear", "nearest", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 2)])
def test_extreme_shapes_are_resized(method, shape):
    out = images.resize(np.full((*shape, 3), 120, np.uint8), 24, method)
    assert out.shape == (24, 24, 3) and out.dtype == np.uint8 and out.max() == 120
    if method != "pad":
        assert out.min() == 120


def test_content_decides_not_the_name_and_facts_tell_the_original():
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        out, facts = images.decode_resized(encoded(PHOTO, kind), 20, "pad")
        assert out.shape == (20, 20, 3)
        assert (facts["format"], facts["width"], facts["height"], facts["mode"]) == (kind, 60, 50, "RGB")


def test_plain_pixels_of_all_layouts_are_taken():
    grey = NOISE[..., 0]
    for plain in (grey, grey[..., None]):
        assert np.array_equal(images.decode_resized(plain, 24, "nearest")[0][..., 2],
                              images.resize(np.dstack([grey] * 3), 24, "nearest")[..., 0])  # fmt: skip
    clear = np.dstack([NOISE, np.zeros(grey.shape, np.uint8)])
    assert images.decode_resized(clear, 8, "bilinear")[0].min() == 255
    with pytest.raises(ImageError, match="float32"):
        images.decode_resized(grey.astype(np.float32), 8, "bilinear")
