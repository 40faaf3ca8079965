"""Bytes of an image file -> uint8 RGB, and the resize. The one place that decides what the network sees of a file."""

import contextlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from cnnjax import pixels as pixels_lib

# Quicker than what stands in where one is not built for the platform: zlib for the first, Pillow for the others, which are used
# where cnnjax.pixels is not compiled.
try:
    import deflate
except ImportError:
    deflate = None
try:
    import cykooz_resizer
except ImportError:
    cykooz_resizer = None
try:
    import pywuffs
    from pywuffs import aux as wuffs
except ImportError:
    wuffs = None

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_FACTS = {b"tIME": 7, b"pHYs": 9, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 3, b"bKGD": 6}  # bytes; change no pixel

# Left out on purpose: EPS and others that start programs, and formats without a signature that match anything.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
Image.init()  # `formats=` fails with a KeyError for plugins that are not loaded yet
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: beyond every camera, and still no danger to memory

# Pillow's own limit would only warn up to twice its value; ours is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

_own = threading.local()  # a decoder and a resizer for each thread: shared ones crash


class ImageError(ValueError):
    """Bytes that are not an image that can be used; the message is the reason, for quarantine.csv."""


@contextlib.contextmanager
def quiet():
    """Hushes what Pillow says about damaged metadata of images whose pixels are whole.

    Around a whole piece of work, in one thread: Python's warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Decodes one image file, its format found from the content; pixels, as in `decode_resized`, become RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit become 8-bit RGB; transparency is laid over white; of
    several frames the first is taken.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: empty, truncated or corrupt data, not an image, or more than `MAX_PIXELS`.
    """
    with quiet():
        return np.ascontiguousarray((_decode(data) if isinstance(data, bytes) else _from_pixels(data))[0])


def decode_resized(data: bytes | np.ndarray, size: int, method: str) -> tuple[np.ndarray, dict]:
    """Decodes (or takes decoded pixels) and resizes.

    Args:
        data: an encoded file, or uint8 [height, width] or [height, width, 1, 3 or 4].
        size: height and width of the result, in pixels.
        method: bilinear (antialiased), nearest, or pad (bilinear, aspect kept, centred on black).

    Returns:
        uint8 [size, size, 3], and the facts {"width", "height", "format", "mode"} of the file.

    Raises:
        ImageError: as in `decode`.
    """
    pixels, facts = _decode(data) if isinstance(data, bytes) else _from_pixels(data)
    return resize(pixels, size, method), facts


def thumbnail(pixels: np.ndarray, side: int = 220) -> bytes:
    """uint8 [h, w] or [h, w, 3] as a small file: JPEG of at most `side` pixels a side, PNG below 100."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if max(image.size) < 100:
        image.save(out, "png", optimize=True)
    else:
        image.save(out, "jpeg", quality=88)
    return out.getvalue()


def resize(pixels: np.ndarray, size: int, method: str) -> np.ndarray:
    """uint8 [height, width, 3] -> uint8 [size, size, 3]; methods as in `decode_resized`."""
    height, width = pixels.shape[:2]
    if method == "nearest":
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST))
    if method == "bilinear":
        return _bilinear(pixels, size, size)
    scale = size / max(height, width)
    height, width = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (size - height) // 2, (size - width) // 2
    out = np.zeros((size, size, 3), np.uint8)
    out[top : top + height, left : left + width] = _bilinear(pixels, height, width)
    return out


def _bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's BILINEAR: a triangle filter as wide as the reduction, within two levels of 255 of Pillow itself."""
    if pixels_lib.available():
        return pixels_lib.resize(pixels, height, width)
    if cykooz_resizer is None:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    kind = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
    target = cykooz_resizer.ImageData(width, height, kind)
    _resizer().resize(source, target, _resize_options())
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)


def _resizer():
    if not hasattr(_own, "resizer"):
        _own.resizer = cykooz_resizer.Resizer()
    return _own.resizer


def _resize_options():
    triangle = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)
    return cykooz_resizer.ResizeOptions(resize_alg=triangle, use_alpha=False)


def _decode(data: bytes) -> tuple[np.ndarray, dict]:
    """The plain cases quickly, everything else, and every doubt, by Pillow; the pixels are the same."""
    quick = _quick_png(data) if data[:8] == PNG_SIGNATURE else _quick_jpeg(data) if data[:3] == b"\xff\xd8\xff" else None
    if quick is not None:
        height, width = quick.shape[:2]
        kind = "PNG" if data[:1] == b"\x89" else "JPEG"
        return quick, {"width": width, "height": height, "format": kind, "mode": "RGB"}
    image, facts = _open(data)
    return np.asarray(image), facts


def _quick_jpeg(data: bytes) -> np.ndarray | None:
    """A three-colour JPEG that nothing turns: uint8 [h, w, 3], or None."""
    try:
        if _may_be_turned(data):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def _may_be_turned(data: bytes) -> bool:
    """Whether a segment before a JPEG's pixels, or XMP in one, may give an orientation; also what is not clear."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] >= b"\xc0":
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xDA:  # the pixels
            return False
        if data[at + 1] == 0xE1 and (b"Exif" in data[at:end] or b"Orientation" in data[at:end]):
            return True
        at = end
    return True


def _quick_png(data: bytes) -> np.ndarray | None:
    """An 8-bit RGB PNG with nothing but pixels, and facts that do not change them: uint8 [h, w, 3], or None."""
    plain = _plain_png(data)
    if plain is None:
        return None
    height, width, compressed = plain
    if pixels_lib.available():
        rows = _inflate(compressed, (3 * width + 1) * height)
        return None if rows is None else pixels_lib.unfilter(rows, height, width)
    if wuffs is None or not _png_is_whole(data):  # wuffs leaves checksums out by default, and its own check is slower
        return None
    result = _wuffs_png().decode(data)
    if result.error_message or result.pixbuf.shape != (height, width, 3):
        return None
    return result.pixbuf


def _plain_png(data: bytes) -> tuple[int, int, bytes | memoryview] | None:
    """Height, width and the compressed pixels, where Pillow is sure to take the same from the file."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, *kind = struct.unpack_from(">IIBBBBB", data, 16)
    if kind != [8, 2, 0, 0, 0] or not 0 < width * height <= MAX_PIXELS:
        return None
    view, at, parts, ended = memoryview(data), 8, [], False
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        if end + 4 > len(data):
            return None
        if name == b"IDAT":  # without its checksum, as Pillow; what is inside has one of its own
            if ended:
                return None
            parts.append(view[start:end])
        elif name == b"IEND":
            return (height, width, parts[0] if len(parts) == 1 else b"".join(parts)) if end + 4 == len(data) else None
        else:
            known = at == 8 or PNG_FACTS.get(name) == length
            if not known or zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
                return None
            ended = bool(parts)
        at = end + 4
    return None


def _inflate(compressed: bytes | memoryview, size: int) -> bytearray | None:
    """None unless it is whole and `size` bytes long."""
    if deflate is None:
        inflater = zlib.decompressobj()
        try:
            rows = bytearray(inflater.decompress(compressed, size + 1))
        except zlib.error:
            return None
        return rows if inflater.eof and len(rows) == size else None
    try:
        rows = deflate.zlib_decompress(compressed, size)
    except deflate.DeflateError:
        return None
    return rows if len(rows) == size else None


def _png_is_whole(data: bytes) -> bool:
    """Whether the checksums of all chunks are right."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        at = end + 4
    return True


def _wuffs_png():
    if not hasattr(_own, "wuffs"):
        config = wuffs.ImageDecoderConfig()
        config.enabled_decoders = [pywuffs.ImageDecoderType.PNG]
        config.pixel_format = pywuffs.PixelFormat.RGB
        _own.wuffs = wuffs.ImageDecoder(config)
    return _own.wuffs


def _from_pixels(pixels: np.ndarray) -> tuple[np.ndarray, dict]:
    if pixels.dtype != np.uint8:
        raise ImageError(f"pixels of type {pixels.dtype}, not uint8")
    image = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    facts = {"width": image.width, "height": image.height, "format": "pixels", "mode": image.mode}
    return np.asarray(_to_rgb(image)), facts


def _open(data: bytes) -> tuple[Image.Image, dict]:
    if not data:
        raise ImageError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        facts = {"width": image.width, "height": image.height, "format": image.format, "mode": image.mode}
        if not image.width or not image.height:
            raise ImageError(f"no pixels ({image.width}x{image.height})")
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image)), facts
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:  # hostile bytes make decoders raise anything, from SyntaxError to IndexError
        raise ImageError(f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return _over_white(image.convert("RGBA")) if "transparency" in image.info else image
    if image.mode.startswith("I"):
        # Pillow's convert clips 16-bit values at 255; the high byte is what 8-bit viewers show.
        values = np.asarray(image).astype(np.int64)
        grey = np.clip(values >> 8 if image.mode != "I" or values.max(initial=0) > 255 else values, 0, 255)
        rgb = Image.fromarray(grey.astype(np.uint8)).convert("RGBA")
        if isinstance(image.info.get("transparency"), int):
            rgb.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
        return _over_white(rgb)
    if image.mode == "F":
        raise ImageError("floating-point pixels; save it as 8- or 16-bit")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
