"""Every kind of image file becomes 8-bit RGB or one reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import images, pixels
from cnnjax.data.images import ImageError

compiled = pytest.mark.skipif(not pixels.available(), reason="cnnjax.pixels is not compiled")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(height, width, rows, before=b"", compressed=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", compressed or zlib.compress(rows))
    return images.PNG_SIGNATURE + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def noise(height=24, width=37, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def smooth(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 2 % 256], -1).astype(np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_that_were_saved(kind):
    assert np.array_equal(images.decode(encoded(noise(), kind)), noise())


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 4), (4, 3), (5, 2), (9, 1), (23, 31)])
def test_all_filters_of_png_in_any_order_are_undone(size):
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = size
        rows = rng.integers(0, 256, (height, 3 * width + 1), np.uint8)
        rows[:, 0] = rng.integers(0, 5, height)
        data = png(height, width, rows.tobytes())
        assert np.array_equal(pixels.decode(data), np.asarray(Image.open(io.BytesIO(data))))


@compiled
def test_png_that_is_not_whole_is_left_to_pillow():
    rows = bytes(4 * (3 * 5 + 1))
    assert pixels.decode(png(4, 5, rows)).shape == (4, 5, 3)
    checksum = bytearray(zlib.compress(rows))
    checksum[-1] ^= 1
    unknown = b"\5" + rows[1:]
    for data in (png(4, 5, rows[:-1]), png(4, 5, rows + b"\0"), png(4, 5, unknown), png(4, 5, b"", compressed=bytes(checksum)),
                 png(4, 5, b"", compressed=zlib.compress(rows)[:-3]), png(4, 5, rows) + b"x", png(4, 5, rows)[:-12]):  # fmt: skip
        assert pixels.decode(data) is None


@compiled
def test_png_in_several_parts():
    rows = bytes([0, *range(15)] * 4)
    whole = zlib.compress(rows)
    parts = b"".join(chunk(b"IDAT", part) for part in (whole[:5], whole[5:9], whole[9:]))
    data = png(4, 5, b"", before=parts, compressed=b"x")
    data = data.replace(chunk(b"IDAT", b"x"), b"")
    assert np.array_equal(pixels.decode(data), np.asarray(Image.open(io.BytesIO(data))))


@compiled
@pytest.mark.parametrize("size", [(1, 5), (5, 6), (8, 8), (9, 17), (16, 16), (17, 33), (37, 250)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_baseline_jpeg_has_pillows_pixels(size, subsampling):
    for image in (noise(*size), smooth(*size)):
        for options in ({"quality": 75}, {"quality": 100}, {"quality": 5, "optimize": True}, {"restart_marker_blocks": 2}):
            data = encoded(image, "JPEG", subsampling=subsampling, **options)
            assert np.array_equal(pixels.decode(data), np.asarray(Image.open(io.BytesIO(data))))


@compiled
def test_jpeg_of_other_kinds_and_damaged_ones_are_left_to_pillow():
    plain = encoded(smooth(), "JPEG")
    grey, progressive = encoded(Image.new("L", (9, 9)), "JPEG"), encoded(smooth(), "JPEG", progressive=True)
    half = plain[: len(plain) // 2]
    narrow = encoded(smooth(20, 4), "JPEG")  # libjpeg smoothes no chroma of two columns
    for data in (grey, progressive, half, narrow, plain[:-2], plain[:-6] + plain[-2:], plain[:-2] + bytes(2) + plain[-2:]):
        assert pixels.decode(data) is None


@compiled
def test_many_files_at_once_are_decoded_as_each():
    files = [encoded(smooth(30, 50), "PNG"), encoded(smooth(50, 30), "JPEG"), b"", b"x", encoded(noise(9, 9), "GIF"),
             encoded(noise(7, 200), "PNG")]  # fmt: skip
    for method in ("bilinear", "pad"):
        out = np.full((len(files), 20, 20, 3), 7, np.uint8)
        facts = images.decode_plain(files, method, out)
        assert [bool(fact) for fact in facts] == [True, True, False, False, False, True]
        for i in (0, 1, 5):
            expected, known = images.decode_any(files[i], 20, method)
            assert np.array_equal(out[i], expected) and facts[i] == known


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = smooth(32, 48)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = images.decode(encoded(np.ascontiguousarray(stored), "JPEG", exif=exif, quality=95, subsampling=0))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 12
    assert np.array_equal(images.decode(encoded(np.ascontiguousarray(stored), "PNG", exif=exif)), upright)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><x tiff:Orientation="6"/></x:xmpmeta>'


def test_orientation_in_xmp_and_in_text_is_applied():
    upright = smooth(32, 48)
    assert images.decode(encoded(upright, "JPEG", xmp=XMP)).shape == (48, 32, 3)
    assert images.decode(encoded(upright, "JPEG", xmp=b"<x:xmpmeta/>")).shape == (32, 48, 3)
    exif = "4d4d002a00000008000101120003000000010006000000000000"  # orientation 6
    profile = b"Raw profile type exif\0\nexif\n 26\n" + exif.encode()
    for text in (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), chunk(b"tEXt", profile)):
        assert images.decode(png(2, 3, bytes(2 * 10), text)).shape == (3, 2, 3)


def test_transparency_is_laid_over_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[:, :2, 3], rgba[:, 2:, 3] = 200, 255, 0
    decoded = images.decode(encoded(rgba, "PNG"))
    assert np.array_equal(decoded[0, 0], [200, 0, 0]) and np.array_equal(decoded[0, 3], [255, 255, 255])
    grey_alpha = Image.merge("LA", [Image.new("L", (3, 3), 10), Image.new("L", (3, 3), 0)])
    assert images.decode(encoded(grey_alpha, "PNG")).min() == 255


def test_palettes_with_and_without_transparency():
    palette = Image.fromarray(smooth()).quantize(8)
    assert np.array_equal(images.decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    transparent = Image.new("P", (2, 2), 1)
    transparent.putpalette([0, 0, 0, 255, 0, 0])
    assert images.decode(encoded(transparent, "PNG", transparency=1)).min() == 255


def test_colour_key_transparency_of_rgb():
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert images.decode(encoded(image, "PNG", transparency=(1, 2, 3))).min() == 255


def test_cmyk_grey_and_one_bit():
    assert np.allclose(
        images.decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[4, 4], [255, 0, 0], atol=3
    )
    assert np.array_equal(images.decode(encoded(Image.new("L", (2, 2), 77), "PNG")), np.full((2, 2, 3), 77))
    assert np.array_equal(images.decode(encoded(Image.new("1", (2, 2), 1), "PNG")), np.full((2, 2, 3), 255))


def test_sixteen_bits_keep_the_high_byte():
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    decoded = images.decode(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(decoded[..., 0], values >> 8)


def test_webp_and_the_first_frame_of_a_gif():
    assert np.array_equal(images.decode(encoded(noise(), "WEBP", lossless=True)), noise())
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(images.decode(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not an image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"GIF89a\0\0\5\0\0\0\0,\0\0\0\0\0\0\5\0\0\2\2D\1\0;", "damaged: it begins as a GIF file, but it has no pixels"),
        (b"GIF89a\0\0", "damaged: it begins as a GIF file, but its header is damaged"),
        (encoded(noise(), "PNG")[:-200], "damaged"),
        (encoded(smooth(), "JPEG")[:-300], "damaged"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason_of_one_line(data, reason):
    with pytest.raises(ImageError, match=reason) as error:
        images.decode(data)
    assert "\n" not in str(error.value)


def test_flipped_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for original in (encoded(noise(), "PNG"), encoded(smooth(), "JPEG"), encoded(noise(), "WEBP"), encoded(noise(), "TIFF")):
        for _ in range(60):
            data = bytearray(original)
            for at in rng.integers(0, len(data), 5):
                data[at] = rng.integers(0, 256)
            try:
                decoded = images.decode(bytes(data))
            except ImageError:
                continue
            assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3


def test_decompression_bombs_are_refused():
    with pytest.raises(ImageError, match="60000x60000 pixels"):
        images.decode(png(60000, 60000, bytes(1000)))


@pytest.mark.parametrize("shape", [(48, 64), (130, 124), (20, 20), (300, 50), (1, 7), (2, 1)])
@pytest.mark.parametrize("size", [1, 16, 32, 90])
@pytest.mark.parametrize("native", [pytest.param(True, marks=compiled), False])
def test_bilinear_is_pillows_antialiased_bilinear(monkeypatch, shape, size, native):
    monkeypatch.setattr(pixels, "available", lambda: native)
    image = noise(*shape)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(images.resize(image, size, "bilinear").astype(int) - expected).max() <= 2


@compiled
def test_resize_takes_rows_with_gaps_and_any_other_layout():
    image = noise(40, 30)
    gaps = np.zeros((40, 97), np.uint8)
    gaps[:, 3:93] = image.reshape(40, 90)
    for same in (gaps[:, 3:93].reshape(40, 30, 3), np.asfortranarray(image), np.ascontiguousarray(image[::-1])[::-1]):
        assert np.array_equal(pixels.resize(same, 9, 14), pixels.resize(image, 9, 14))


def test_nearest_is_pillows_nearest():
    expected = np.asarray(Image.fromarray(noise()).resize((16, 16), Image.Resampling.NEAREST))
    assert np.array_equal(images.resize(noise(), 16, "nearest"), expected)


def test_pad_keeps_the_aspect_and_adds_black():
    padded = images.resize(np.full((20, 40, 3), 200, np.uint8), 32, "pad")
    inside = (padded == 200).all((1, 2))
    assert padded.shape == (32, 32, 3) and inside.sum() == 16 and inside[8:24].all()
    assert padded[:8].max() == 0 == padded[24:].max()


def test_the_awkward_files(shared_data):
    outcomes = {}
    for path in sorted((shared_data / "awkward").iterdir()):
        try:
            outcomes[path.name] = images.decode(path.read_bytes()).shape
        except ImageError as error:
            outcomes[path.name] = str(error)
    readable = {name for name, outcome in outcomes.items() if isinstance(outcome, tuple)}
    assert readable == {"hopper_orientation_6.jpg", "hopper_orientation_8.jpg", "i_trns.png", "pil_sample_cmyk.jpg",
                        "uncompressed_la.png"}  # fmt: skip
    # The same portrait, stored in two orientations, comes out upright twice.
    upright = [images.decode((shared_data / "awkward" / f"hopper_orientation_{i}.jpg").read_bytes()) for i in (6, 8)]
    assert np.abs(upright[0].astype(int) - upright[1]).mean() < 2
