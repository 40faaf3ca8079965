"""The compiled PNG decoder and resize give Pillow's pixels or leave a file to it; tests/fuzz has sanitizers look at their memory."""

import ctypes
import importlib.util
import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fuzz import pixels as fuzz_pixels
from PIL import Image
from test_images import chunk, encoded, noise, png

from cnnjax.data import images, pixels

compiled = pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
BILINEAR = Image.Resampling.BILINEAR


def with_any_filters(rng, height, width):
    rows = rng.integers(0, 256, (height, 3 * width + 1), np.uint8)
    rows[:, 0] = rng.integers(0, 5, height)
    return png(height, width, rows.tobytes())


def same_as_pillow(data) -> bool:
    """Returns whether the file is decoded here; then Pillow must give the same pixels."""
    (found,) = pixels.decode([data])
    if found is not None:
        with images.quiet():
            assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data))))
    return found is not None


@compiled
def test_damaged_files_are_read_as_by_pillow_or_left_to_it():
    rng = random.Random(0)
    assert 200 < sum(same_as_pillow(fuzz_pixels.changed(rng)) for _ in range(1000)) < 800


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 4), (4, 3), (5, 2), (9, 1), (23, 31)])
def test_all_filters_of_png_in_any_order_are_undone(size):
    rng = np.random.default_rng(0)
    assert all(same_as_pillow(with_any_filters(rng, *size)) for _ in range(20))


@compiled
def test_png_that_is_not_whole_is_left_to_pillow():
    rows = bytes(4 * (3 * 5 + 1))
    assert pixels.decode([png(4, 5, rows)])[0].shape == (4, 5, 3)
    checksum = bytearray(zlib.compress(rows))
    checksum[-1] ^= 1
    unknown = b"\5" + rows[1:]
    for data in (png(4, 5, rows[:-1]), png(4, 5, rows + b"\0"), png(4, 5, unknown), png(4, 5, b"", compressed=bytes(checksum)),
                 png(4, 5, b"", compressed=zlib.compress(rows) + b"x"),
                 png(4, 5, b"", compressed=zlib.compress(rows)[:-3]), png(4, 5, rows) + b"x", png(4, 5, rows)[:-12],
                 png(11_000, 11_000, rows)):  # fmt: skip
        assert pixels.decode([data]) == [None]


@compiled
def test_png_in_several_parts():
    rows = bytes([0, *range(15)] * 4)
    whole = zlib.compress(rows)
    parts = b"".join(chunk(b"IDAT", part) for part in (whole[:5], whole[5:9], whole[9:]))
    data = png(4, 5, b"", before=parts, compressed=b"x")
    assert same_as_pillow(data.replace(chunk(b"IDAT", b"x"), b""))


def packed(bits):
    """PNG file of one black row: a deflate block of a zero and 97 matches of 258 bytes, by its bits in order."""
    data = int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
    return png(1, 86 * 97, b"", compressed=b"\x78\1" + data + struct.pack(">I", zlib.adler32(bytes(1 + 258 * 97))))


def fixed(length, distance):
    """File with a block of fixed codes, whose last match has the two symbols."""
    return packed("11000110000" + "1100010100000" * 96 + f"{0b11000000 + length - 280:08b}{distance:05b}" + "0" * 20)


def dynamic(literals, distances):
    """File with a block of its own codes, as many as given. Four of them are used, all of them legal."""
    lengths = ["0"] * (literals + distances)
    lengths[0] = lengths[literals] = "10"  # one bit
    lengths[256] = lengths[285] = "11"  # two bits
    counts = f"{literals - 257:05b}"[::-1] + f"{distances - 1:05b}"[::-1] + "1111"
    codes = "000" * 3 + "100" + "000" * 11 + "010000010000"  # 0 has one bit; 2 and 1 have two
    return packed("101" + counts + codes + "".join(lengths) + "0" + "110" * 97 + "10")


@compiled
def test_deflate_with_the_last_legal_codes_is_decoded():
    assert all(map(same_as_pillow, (fixed(285, 29), dynamic(286, 1), dynamic(286, 30))))


@compiled
@pytest.mark.parametrize("block, first, second", [(fixed, 286, 29), (fixed, 287, 29), (fixed, 285, 30), (fixed, 285, 31),
                                                  (dynamic, 287, 1), (dynamic, 288, 1), (dynamic, 286, 31),
                                                  (dynamic, 286, 32)])  # fmt: skip
def test_deflate_that_only_lenient_decoders_take_is_refused_as_by_pillow(block, first, second):
    data = block(first, second)
    assert pixels.decode([data]) == [None]
    with pytest.raises(images.ImageError):
        images.decode(data)


def damaged_deflate(rng, streams):
    """A file of pixels one to a row, with right CRCs and, if zlib can read the damaged stream, mostly a right Adler-32."""
    stream = bytearray(rng.choice(streams))
    for _ in range(rng.choice((1, 1, 2))):
        stream[rng.randrange(min(len(stream), rng.choice((20, 1000))))] ^= 1 << rng.randrange(8)
    reader = zlib.decompressobj(-15)
    try:
        rows = reader.decompress(stream[2:])
    except zlib.error:
        return png(100, 1, b"", compressed=bytes(stream))
    if reader.eof and rng.randrange(4):
        stream = stream[: len(stream) - len(reader.unused_data)] + struct.pack(">I", zlib.adler32(rows))
    return png(max(len(rows) // 4, 1), 1, b"", compressed=bytes(stream))


@compiled
def test_damaged_deflate_with_right_checksums_is_read_as_by_pillow_or_left_to_it():
    rng, streams = random.Random(0), []
    for level, strategy in (
        (0, 0),
        (6, zlib.Z_FIXED),
        (1, zlib.Z_RLE),
        (6, zlib.Z_HUFFMAN_ONLY),
        (9, 0),
        (9, zlib.Z_FILTERED),
    ):
        for most in (2, 5):
            packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
            streams.append(packer.compress(bytes(rng.randrange(most) for _ in range(400))) + packer.flush())
    decoded = sum(same_as_pillow(damaged_deflate(rng, streams)) for _ in range(2000))
    assert 200 < decoded < 1500


@compiled
@pytest.mark.parametrize("name", ["absent.zlib_ng", "zlib_ng.absent", "_ctypes"])
def test_without_zlib_ng_or_its_functions_png_is_left_to_pillow(monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: find(name))
    monkeypatch.setattr(pixels, "_inflater", pixels._inflater.__wrapped__)
    data = encoded(noise(), "PNG")
    assert pixels.decode([data]) == [None] and np.array_equal(images.decode(data), noise())


@compiled
def test_zlib_ng_of_another_version_is_not_used(monkeypatch):
    refuse = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32)(lambda *_: -6)
    functions = pixels._Inflater.from_buffer_copy(pixels._inflater().contents)
    functions.inflateInit_ = ctypes.cast(refuse, ctypes.c_void_p)
    monkeypatch.setattr(pixels, "_inflater", lambda: ctypes.pointer(functions))
    with ThreadPoolExecutor(1) as fresh:  # a thread's stream stays open
        assert fresh.submit(pixels.decode, [encoded(noise(), "PNG")]).result() == [None]


@compiled
@pytest.mark.parametrize("most", [5, 40, 400])
def test_resize_is_pillows_bit_for_bit(most):
    rng = np.random.default_rng(most)
    for _ in range(60):
        (height, width), (to_height, to_width) = rng.integers(1, most, 2).tolist(), rng.integers(1, 300, 2).tolist()
        image = noise(height, width, seed=rng) * rng.choice(np.array([1, 255], np.uint8))
        out = np.empty((to_height, to_width, 3), np.uint8)
        pixels.resize(image, out)
        rows = Image.fromarray(image).resize((to_width, height), BILINEAR)
        assert np.array_equal(out, np.asarray(rows.resize((to_width, to_height), BILINEAR)))


@compiled
def test_resize_takes_rows_with_gaps_and_any_other_layout():
    image = noise(40, 30)
    gaps = np.zeros((40, 97), np.uint8)
    gaps[:, 3:93] = image.reshape(40, 90)
    expected = np.empty((9, 14, 3), np.uint8)
    pixels.resize(image, expected)
    for same in (gaps[:, 3:93].reshape(40, 30, 3), np.asfortranarray(image), np.ascontiguousarray(image[::-1])[::-1]):
        room = np.full((11, 16, 3), 7, np.uint8)
        pixels.resize(same, room[1:10, 1:15])
        assert np.array_equal(room[1:10, 1:15], expected)
        assert (room[0] == 7).all() and (room[10] == 7).all() and (room[:, [0, 15]] == 7).all()
