"""Bytes of an image file -> uint8 RGB. This file and `resizes` alone decide what the network sees of a file."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import PIL
import simplejpeg
from PIL import Image

from cnnjax.data import bands, dicom, high_bits, jpeg, limits, memory, tiff
from cnnjax.data import pixels as pixels_lib
from cnnjax.data.limits import ImageError
from cnnjax.data.resizes import resize

PIXELS_BY = ("simplejpeg and Pillow", f"{simplejpeg.__version__} and {PIL.__version__}")  # what decodes and resizes
Window = Callable[[int, int], tuple[int, int, int, int]]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Left out on purpose: EPS and others that start programs, and formats without a signature that match anything.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
for _plugin in [
    "Png",
    "Jpeg",
    "WebP",
    "Gif",
    "Bmp",
    "Tiff",
    "Ppm",
    "Jpeg2K",
    "Avif",
]:  # not all 46 of them, which `Image.init` loads
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")
# Pillow's own limit would only warn up to twice its value; ours is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


@contextlib.contextmanager
def quiet():
    """Hushes what Pillow says about damaged metadata of images whose pixels are whole.

    Around a whole piece of work, in one thread: Python's warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(data: bytes | np.ndarray, levels: tuple[float, ...] = ()) -> np.ndarray:
    """Decodes one image file, its format found from the content; pixels, as in `decode_resized`, become RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit become 8-bit RGB; transparency is laid over white; of
    several frames the first is taken.

    Args:
        data: an encoded file, or pixels as in `decode_resized`.
        levels: of grey files with more than 8 bits, what becomes black and what becomes white; (): their high byte is taken.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: empty, truncated or corrupt data, not an image, or more than `limits` allows.
    """
    with quiet():
        pixels = decode_whole(data, levels)[0]
        return pixels if pixels.nbytes > pixels_lib.LARGE and pixels.flags.writeable else pixels.copy()


def decode_resized(data: bytes | np.ndarray, size: int | tuple[int, int], method: str, out: np.ndarray | None = None,
                   levels: tuple[float, ...] = ()) -> tuple[np.ndarray, dict]:  # fmt: skip
    """Decodes (or takes decoded pixels) and resizes.

    Args:
        data: an encoded file, or uint8 [height, width] or [height, width, 1, 3 or 4].
        size: height and width of the result, in pixels; one number is both.
        method: bilinear or bicubic (antialiased), nearest, or pad (bilinear, aspect kept, centred on black).
        out: uint8 [height, width, 3], contiguous, for the result; None: a new array.
        levels: as in `decode`.

    Returns:
        uint8 [height, width, 3], and the facts {"width", "height", "format", "mode", "low", "high"} of the file. The last two are
        levels of a grey file with more than 8 bits, a thousandth of its pixels below the one, a thousandth above the other; "" of
        another file.

    Raises:
        ImageError: as in `decode`.
    """
    pixels, facts = decode_whole(data, levels)
    return resize(pixels, size, method, out), facts


def decode_cropped(data: bytes, size: tuple[int, int], method: str, window: Window, out: np.ndarray,
                   levels: tuple[float, ...] = ()) -> None:  # fmt: skip
    """Decodes, cuts a window out of the file's image, and resizes it.

    A plain JPEG file is decoded at a half, a quarter or an eighth of its size, by libjpeg-turbo's scaled DCT, where the window still has
    as many pixels as the result. The window is stretched to the result, also by the method pad: margins would tell nothing.

    Args:
        data: an encoded file.
        size, method, levels: as in `decode_resized`.
        window: height and width of an image in pixels -> top, left, height and width of the window in it.
        out: uint8 [height, width, 3], contiguous; gets the result.

    Raises:
        ImageError: as in `decode`.
    """
    whole, scaled = None, None
    before = jpeg.header(data) if data.startswith(jpeg.SIGNATURE) else b""
    if before and not _turned(data, before) and (whole := jpeg.size(data)):
        cut = window(*whole)
        least = tuple(-(-wanted * side // part) for wanted, side, part in zip(size, whole, cut[2:], strict=True))
        scaled = jpeg.decode(data, before, least)
    if scaled is None:
        scaled = decode_whole(data, levels)[0]
        whole, cut = scaled.shape[:2], window(*scaled.shape[:2])
    top, bottom, left, right = (
        round(end * own / side)
        for start, part, own, side in zip(cut[:2], cut[2:], scaled.shape, whole, strict=False)
        for end in (start, start + part)
    )
    cut = scaled[top : max(bottom, top + 1), left : max(right, left + 1)]
    resize(cut, size, "bilinear" if method == "pad" else method, out)


def decode_plain(files: list, method: str, out: np.ndarray) -> list[dict | None]:
    """Decodes and resizes the plain PNG files among many in one call: the same as `decode_resized`, sooner.

    Args:
        files: arguments of `decode_resized`, or anything else.
        method: as there.
        out: uint8 [files, height, width, 3], contiguous; gets the images.

    Returns:
        The facts of each; None for those that are left to `decode_resized`.
    """
    facts: list[dict | None] = [None] * len(files)
    for i, pixels in enumerate(pixels_lib.decode(files, pixels_lib.LARGE)):
        if pixels is not None:
            resize(pixels, out.shape[1:3], method, out[i])
            facts[i] = _plain_facts(*pixels.shape[:2], "PNG")
    return facts


def _plain_facts(height: int, width: int, kind: str) -> dict:
    return {"width": width, "height": height, "format": kind, "mode": "RGB", "low": "", "high": ""}


def decode_whole(data: bytes | np.ndarray, levels: tuple[float, ...] = ()) -> tuple[np.ndarray, dict]:
    """Returns pixels and facts, as `decode_resized` does, in the file's size; the thread's next image overwrites the pixels."""
    if not isinstance(data, bytes):
        return _from_pixels(data)
    limits.check_file(len(data))
    if data.startswith(jpeg.SIGNATURE):
        before = jpeg.header(data)
        pixels, kind = jpeg.decode(data, before) if before and not _turned(data, before) else None, "JPEG"
    else:
        (pixels,), kind = (
            pixels_lib.decode([data], limits.MAX_MEMORY - limits.ROWS - len(data)),
            "PNG",
        )  # it joins the compressed bytes
    if pixels is None:
        return _open(data, levels)
    return pixels, _plain_facts(*pixels.shape[:2], kind)


def _turned(data: bytes, before: bytes) -> bool:
    """Whether segments of a JPEG file turn the picture, or say that it is one of several, or are not understood."""
    if b"MPF\0" in before:
        return True
    if b"Exif\0" not in before and b"ns.adobe.com/xap" not in before:
        return False
    try:
        return bands.orientation(Image.open(io.BytesIO(data), formats=("JPEG",))) > 1
    except Exception:  # as in `_open`
        return True


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


def _from_pixels(pixels: np.ndarray) -> tuple[np.ndarray, dict]:
    if pixels.dtype != np.uint8:
        raise ImageError(f"pixels of type {pixels.dtype}, not uint8")
    image = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    return bands.rgb(image), _facts(image, "pixels")


def _facts(image: Image.Image, kind: str) -> dict:
    return {"width": image.width, "height": image.height, "format": kind, "mode": image.mode, "low": "", "high": ""}


def _without_texts(data: bytes) -> bytes:
    """A PNG file without colour profile and the texts that say nothing about orientation: Pillow has limits for their size."""
    parts, at, dropped = [data[:8]], 8, False
    while len(data) >= at + 12:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            break
        text = kind in (b"tEXt", b"zTXt", b"iTXt") and not data.startswith(
            (b"XML:com.adobe.xmp\0", b"Raw profile type "), at + 8
        )
        if text or kind == b"iCCP":
            dropped = True
        else:
            parts.append(data[at:end])
        at = end
    return b"".join((*parts, memoryview(data)[at:])) if dropped else data


def _loaded(data: bytes) -> Image.Image:
    """Opens an image through Pillow, checks what it takes in memory, and decodes it."""
    memory.check_header(data)
    own = _without_texts(data) if data.startswith(PNG_SIGNATURE) else data
    image = Image.open(io.BytesIO(own), formats=(*FORMATS, "HEIF") if _is_heif(data) else FORMATS)
    memory.check(image, own, 0 if own is data else len(own))
    image.load()
    return image


def _open(data: bytes, levels: tuple[float, ...]) -> tuple[np.ndarray, dict]:
    if not data:
        raise ImageError("empty file")
    if dicom.is_dicom(data):
        return _open_dicom(data, levels)
    try:
        image = _loaded(data)
        facts = _facts(image, image.format)
        if image.mode.startswith("I") or image.mode == "F":
            values, clear = bands.values(image), image.info.get("transparency")
            del image
            return _grey(values, levels, facts, clear=clear)
        if tiff.is_deep(image):
            size = image.size
            del image
            if (found := tiff.colours(data, size)) is not None:
                return _grey(found[0], levels, {**facts, "mode": "RGB;16"}, out=found[1])
            image = _loaded(data)
        return bands.rgb(image), facts
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    except Exception as error:  # hostile bytes make decoders raise anything, from SyntaxError to IndexError
        raise ImageError(f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _is_heif(data: bytes) -> bool:
    """Returns whether a file is HEIC or HEIF, which Pillow reads with the extra; raises ImageError where that is missing."""
    if data[4:8] != b"ftyp" or data[8:12] not in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return False
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("a HEIC file, which takes pillow-heif: pip install 'cnnjax[heif]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    return True


def _open_dicom(data: bytes, levels: tuple[float, ...]) -> tuple[np.ndarray, dict]:
    try:
        values = dicom.read(data)
    except ImportError:
        raise ImageError(dicom.MISSING) from None
    except ImageError:
        raise
    except Exception as error:  # as in `_open`
        raise ImageError(f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    height, width = values.shape[:2]
    facts = {**_plain_facts(height, width, "DICOM"), "mode": "RGB" if values.ndim == 3 else "F"}
    if values.ndim == 3:
        return values, facts
    # Device units have no black of their own: the file's levels, where the set's are not known yet.
    return _grey(values, levels or (float(values.min()), float(values.max()) + 1e-6), facts)


def _grey(values: np.ndarray, levels: tuple[float, ...], facts: dict, *, clear: object = None,
          out: np.ndarray | None = None) -> tuple[np.ndarray, dict]:  # fmt: skip
    """Pixels and facts of levels [height, width] or [height, width, 3] of more than 8 bits; `clear` is the level that is transparent.

    Nothing of the levels is kept: `high_bits.to_bytes` may write the pixels to their memory, `out`.
    """
    try:
        high_bits.check_finite(values)
        if values.dtype == np.uint16:  # before their memory is written to
            low, high = high_bits.extremes(values)
        shown = high_bits.to_bytes(values, levels, narrow=facts["mode"] == "I", out=out)
        if isinstance(clear, int):
            shown[values == clear] = 255
        if values.dtype != np.uint16:  # after the order of their pixels is of no use any more
            low, high = high_bits.extremes(values)
    except ValueError as error:
        raise ImageError(str(error)) from None
    facts["low"], facts["high"] = f"{low:.9g}", f"{high:.9g}"
    del values
    return shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, -1), facts


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
