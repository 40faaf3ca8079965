"""Bytes of an image file -> uint8 RGB, and the resize. The one place that decides what the network sees of a file."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

# Left out on purpose: EPS and others that start programs, and formats without a signature that match anything.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
Image.init()  # `formats=` fails with a KeyError for plugins that are not loaded yet
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: beyond every camera, and still no danger to memory
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}

# Pillow's own limit would only warn up to twice its value; ours is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """Bytes that are not an image that can be used; the message is the reason, for quarantine.csv."""


def decode(data: bytes) -> np.ndarray:
    """Decodes one image file, its format found from the content.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit become 8-bit RGB; transparency is laid over white; of
    several frames the first is taken.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: empty, truncated or corrupt data, not an image, or more than `MAX_PIXELS`.
    """
    return np.asarray(_open(data)[0])


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
    image, facts = _open(data) if isinstance(data, bytes) else _from_pixels(data)
    return resize(image, size, method), facts


def resize(image: Image.Image, size: int, method: str) -> np.ndarray:
    """RGB Pillow image -> uint8 [size, size, 3]; methods as in `decode_resized`."""
    if method == "pad":
        return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=(0, 0, 0)))
    return np.asarray(image.resize((size, size), _RESAMPLING[method]))


def _from_pixels(pixels: np.ndarray) -> tuple[Image.Image, dict]:
    if pixels.dtype != np.uint8:
        raise ImageError(f"pixels of type {pixels.dtype}, not uint8")
    image = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    return _to_rgb(image), {"width": image.width, "height": image.height, "format": "pixels", "mode": image.mode}


def _open(data: bytes) -> tuple[Image.Image, dict]:
    if not data:
        raise ImageError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata of images whose pixels are whole.
            warnings.simplefilter("ignore")
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
