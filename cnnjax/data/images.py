"""Bytes of an image file -> uint8 RGB, and the resize. The one place that decides what the network sees of a file."""

import contextlib
import io
import warnings

import numpy as np
import PIL
from PIL import Image, ImageOps

from cnnjax.data import pixels as pixels_lib

PIXELS_BY = ("Pillow", PIL.__version__)  # the library, and its version, that decodes and resizes
RESIZES = ("bilinear", "nearest", "pad")  # the methods of `resize`
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Left out on purpose: EPS and others that start programs, and formats without a signature that match anything.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
Image.init()  # `formats=` fails with a KeyError for plugins that are not loaded yet
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: beyond every camera, and still no danger to memory

# Pillow's own limit would only warn up to twice its value; ours is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


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
        if not isinstance(data, bytes):
            return np.ascontiguousarray(_from_pixels(data)[0])
        plain = pixels_lib.decode(data) if pixels_lib.available() else None
        return _open(data)[0] if plain is None else plain


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
    out = np.empty((1, size, size, 3), np.uint8)
    facts = decode_plain([data], method, out)[0]
    return (out[0], facts) if facts else decode_any(data, size, method)


def decode_plain(files: list, method: str, out: np.ndarray) -> list[dict | None]:
    """`decode_resized` of the plain files among many, at once and without the interpreter.

    Args:
        files: what `decode_resized` takes, or anything else.
        method: as there.
        out: uint8 [files, size, size, 3], contiguous; gets the images.

    Returns:
        The facts of each; None for those that are left to `decode_any`.
    """
    if method == "nearest" or not pixels_lib.available():
        return [None] * len(files)
    encoded = [file if isinstance(file, bytes) else b"" for file in files]
    return [_plain_facts(*found) if found[0] else None for found in pixels_lib.decode_resized(encoded, out, method == "pad")]


def _plain_facts(kind: int, height: int, width: int) -> dict:
    return {"width": width, "height": height, "format": pixels_lib.KINDS[kind], "mode": "RGB"}


def decode_any(data: bytes | np.ndarray, size: int, method: str) -> tuple[np.ndarray, dict]:
    """`decode_resized` by Pillow."""
    pixels, facts = _open(data) if isinstance(data, bytes) else _from_pixels(data)
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
    """Pillow's BILINEAR: a triangle filter as wide as the reduction, within one level of 255 of Pillow itself."""
    resized = pixels_lib.resize(pixels, height, width) if pixels_lib.available() else None
    if resized is None:
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    return resized


def _from_pixels(pixels: np.ndarray) -> tuple[np.ndarray, dict]:
    if pixels.dtype != np.uint8:
        raise ImageError(f"pixels of type {pixels.dtype}, not uint8")
    image = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    facts = {"width": image.width, "height": image.height, "format": "pixels", "mode": image.mode}
    return np.asarray(_to_rgb(image)), facts


def _open(data: bytes) -> tuple[np.ndarray, dict]:
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
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image))), facts
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    except Exception as error:  # hostile bytes make decoders raise anything, from SyntaxError to IndexError
        raise ImageError(f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _unidentified(data: bytes) -> str:
    """Why Pillow takes a file for no image: it does not begin as one, or its header cannot be used."""
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept and accept(data[:16]) is True:
            reason = "its header is damaged"
            try:
                factory(io.BytesIO(data), "").close()
            except Exception as error:  # as in `_open`
                if str(error) == "not identified by this driver":  # so it is said of a width or height of 0
                    reason = "it has no pixels"
            return f"damaged: it begins as a {name} file, but {reason}"
    return "not an image"


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
