"""Every kind of image file becomes 8-bit RGB, the same on every machine, or one reason why not."""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import images, pixels, resizes
from cnnjax.data.images import ImageError


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


@pytest.mark.parametrize(
    "before", [b"\xff\xfe\0\6\xff\xda\0\2", b"\xff\xff"], ids=["start of pixels in a comment", "fill bytes"]
)
def test_exif_orientation_is_found_behind_other_bytes(before):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(smooth(32, 48), "JPEG", exif=exif)
    assert images.decode(data[:2] + before + data[2:]).shape == (48, 32, 3)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><x tiff:Orientation="6"/></x:xmpmeta>'


def test_orientation_in_xmp_and_in_text_is_applied():
    upright = smooth(32, 48)
    assert images.decode(encoded(upright, "JPEG", xmp=XMP)).shape == (48, 32, 3)
    assert images.decode(encoded(upright, "JPEG", xmp=b"<x:xmpmeta/>")).shape == (32, 48, 3)
    exif = "4d4d002a00000008000101120003000000010006000000000000"  # orientation 6
    profile = b"Raw profile type exif\0\nexif\n 26\n" + exif.encode()
    for text in (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), chunk(b"tEXt", profile)):
        assert images.decode(png(2, 3, bytes(2 * 10), text)).shape == (3, 2, 3)


def test_an_odd_tag_beside_the_orientation_does_no_harm():
    upright = smooth(32, 48)
    tags = bytes.fromhex("4d4d002a00000008000201120003000000010006000001280001000000010200000000000000")
    data = encoded(upright, "JPEG")
    segment = b"\xff\xe1" + (len(tags) + 8).to_bytes(2, "big") + b"Exif\0\0" + tags
    assert images.decode(data[:2] + segment + data[2:]).shape == (48, 32, 3)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_long_texts_and_profiles_of_a_png_do_not_matter(kind):
    long = chunk(kind, b"Comment\0\0" + zlib.compress(bytes(3_000_000)))
    assert np.array_equal(images.decode(png(2, 3, bytes(2 * 10), long)), images.decode(png(2, 3, bytes(2 * 10))))


def test_alpha_of_a_bmp_that_is_empty_throughout_is_none():
    pixels = np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4)
    head = struct.pack("<IiiHHIIiiII", 108, 4, -4, 1, 32, 3, 64, 0, 0, 0, 0) + struct.pack(
        "<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000
    )
    for alpha, expected in ((0, pixels[..., 2::-1]), (255, pixels[..., 2::-1])):
        pixels[..., 3] = alpha
        body = head + bytes(108 - len(head)) + pixels.tobytes()
        assert np.array_equal(images.decode(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 122) + body), expected)
    pixels[..., 3], pixels[0, 0, 3] = 0, 255
    body = head + bytes(108 - len(head)) + pixels.tobytes()
    decoded = images.decode(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 122) + body)
    assert np.array_equal(decoded[0, 0], pixels[0, 0, 2::-1]) and decoded[1:].min() == 255


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
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_filters_are_pillows_antialiased_ones(shape, size, method):
    image = noise(*shape)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling[method.upper()]))
    # Pillow rounds between its two passes and chooses by the sizes which comes first; bicubic clips there too.
    most = {"bilinear": 1, "bicubic": 8}[method]
    assert np.abs(images.resize(image, size, method).astype(int) - expected).max() <= most


@pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
@pytest.mark.parametrize("method", ["bilinear", "pad"])
def test_many_files_at_once_are_decoded_as_each(method):
    files = [encoded(smooth(30, 50), "PNG"), encoded(smooth(50, 30), "JPEG"), b"", b"x", encoded(noise(9, 9), "GIF"),
             encoded(noise(7, 200), "PNG"), encoded(noise(), "PNG")[:-9]]  # fmt: skip
    out = np.full((len(files), 20, 20, 3), 7, np.uint8)
    facts = images.decode_plain(files, method, out)
    assert [bool(fact) for fact in facts] == [True, False, False, False, False, True, False]
    for i in (0, 5):
        expected, known = images.decode_resized(files[i], 20, method)
        assert np.array_equal(out[i], expected) and facts[i] == known


def real_images(shared_data):
    """Two hundred real files, evenly out of both archives."""
    with zipfile.ZipFile(shared_data / "cell_images.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        yield from map(archive.read, names[:: len(names) // 100])
    with tarfile.open(shared_data / "flower_photos.tgz") as archive:
        for i, member in enumerate(archive):
            if member.name.endswith(".jpg") and i % 26 == 0:
                yield archive.extractfile(member).read()


def same_without_compiler(monkeypatch, files):
    """Asserts that the files have the same pixels and facts where nothing of this package is compiled."""
    for data in files:
        for method in resizes.RESIZES:
            with monkeypatch.context() as hidden:
                found = images.decode_resized(data, 48, method)
                hidden.setattr(pixels, "_library", lambda: None)
                expected = images.decode_resized(data, 48, method)
            assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]


@pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
def test_pixels_are_the_same_without_a_compiler(monkeypatch):
    files = [encoded(image(h, w), kind, **options) for image in (noise, smooth) for h, w in ((1, 1), (37, 250), (180, 49))
             for kind, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}))]  # fmt: skip
    same_without_compiler(monkeypatch, files)


@pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
def test_pixels_of_real_files_are_the_same_without_a_compiler(monkeypatch, shared_data):
    same_without_compiler(monkeypatch, real_images(shared_data))


@pytest.mark.parametrize("size", [(1, 5), (8, 8), (17, 33), (37, 250)])
@pytest.mark.parametrize("options", [{"quality": 75, "subsampling": 0}, {"quality": 100}, {"progressive": True},
                                     {"quality": 5, "optimize": True}, {"restart_marker_blocks": 2}], ids=str)  # fmt: skip
def test_jpeg_has_pillows_pixels(size, options):
    for image in (noise(*size), smooth(*size)):
        data = encoded(image, "JPEG", **options)
        assert np.array_equal(images.decode(data), np.asarray(Image.open(io.BytesIO(data))))


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


PHOTO = np.stack([*np.meshgrid(np.arange(0, 240, 4), np.arange(0, 200, 4)), np.full((50, 60), 90)], -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)


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


@pytest.mark.parametrize("data", [png(60000, 60000, bytes(1000)), png(2**31 - 1, 2**31 - 1, bytes(1000)), lying("JPEG"), lying("BMP"),
                                  lying("GIF")])  # fmt: skip
@pytest.mark.parametrize("quick", [True, False])
def test_lying_header_is_refused_before_memory_is_taken(monkeypatch, data, quick):
    if not quick:
        monkeypatch.setattr(pixels, "_library", lambda: None)
    with pytest.raises(ImageError, match="pixels, more than"):
        images.decode(data)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_header_without_pixels_is_refused(size):
    with pytest.raises(ImageError):
        images.decode(png(*size, bytes(1000)))


@pytest.mark.parametrize("method", sorted(resizes.RESIZES))
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
