"""Every kind of image file becomes 8-bit RGB or one reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax import images
from cnnjax.images import ImageError


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


def test_the_quick_png_decoder_gives_pillows_pixels():
    if images.wuffs is None:
        pytest.skip("pywuffs is not built for this platform")
    for size in ((1, 1), (3, 200), (97, 64)):
        data = encoded(noise(*size), "PNG")
        assert np.array_equal(images._quick_png(data), noise(*size))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_the_quick_jpeg_decoder_gives_pillows_pixels(options):
    data = encoded(smooth(), "JPEG", **options)
    quick = images._quick_jpeg(data)
    assert quick is not None
    assert np.abs(quick.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).max() <= 1


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
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = images.PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="60000x60000 pixels"):
        images.decode(bomb)


@pytest.mark.parametrize("shape", [(48, 64), (130, 124), (20, 20), (300, 50)])
@pytest.mark.parametrize("size", [16, 32, 90])
def test_bilinear_is_pillows_antialiased_bilinear(shape, size):
    image = noise(*shape)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(images.resize(image, size, "bilinear").astype(int) - expected).max() <= 2


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
