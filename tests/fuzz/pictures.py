"""Damaged image files of every format: an ImageError or pixels of the right shape, soon and in little memory.

Plain PNG and JPEG files are decoded by other libraries than Pillow; there the pixels are Pillow's, and so is a refusal.
"""

import functools
import io
import random
import struct
from pathlib import Path

import numpy as np
from fuzz.findings import Finding, bounded, told
from fuzz.mutations import damaged
from PIL import Image, features

from cnnjax.data import images, jpeg, limits, resizes

SECONDS = 30  # of an attempt, after which its process is ended
LIMITED = True
CPU = 5  # seconds of the processor for one file
ORIENTATION = 0x0112
BEGINNINGS = (images.PNG_SIGNATURE, jpeg.SIGNATURE)
BILINEAR = Image.Resampling.BILINEAR


def attempt(rng: random.Random, folder: Path) -> None:
    """Decodes one damaged file. Raises Finding."""
    name = rng.choice(sorted(seeds()))
    data = seeds()[name] if rng.random() > 0.001 else huge()
    if rng.random() < 0.3:
        data = claiming(rng, data)
    alike = [other for key, other in seeds().items() if key.partition(" ")[0] == name.partition(" ")[0]]
    data = damaged(rng, data, alike)
    (folder / name.replace(" ", ".")).write_bytes(data)
    size = (rng.randrange(1, 40), rng.randrange(1, 40))
    with bounded(CPU):
        examine(data, size, rng.choice(sorted(resizes.RESIZES)), rng.choice(((), (), (0.0, 4095.0))))


def examine(data: bytes, size: tuple[int, int], method: str, levels: tuple[float, ...] = ()) -> bool:
    """Decodes a file; returns whether it is read. Raises Finding."""
    try:
        with images.quiet():
            pixels, facts = images.decode_resized(data, size, method, levels=levels)
    except images.ImageError as error:
        if len(str(error).splitlines()) != 1:
            raise Finding("refused in several lines, or in none", repr(error)) from error
        pixels = None
    except Exception as error:
        raise Finding(told(error), repr(error)) from error
    if pixels is not None and (pixels.shape != (*size, 3) or pixels.dtype != np.uint8):
        raise Finding("pixels of another shape", f"{pixels.dtype} {pixels.shape}, not uint8 {(*size, 3)}")
    if pixels is not None and not (facts["width"] > 0 and facts["height"] > 0):
        raise Finding("facts of no image", repr(facts))
    if data.startswith(BEGINNINGS):
        compare(data, pixels, method)
    return pixels is not None


def compare(data: bytes, pixels: np.ndarray | None, method: str) -> None:
    """Compares a PNG or JPEG file of three colours of 8 bits, as it is stored, with Pillow. Raises Finding."""
    if data.startswith(images.PNG_SIGNATURE):
        data = images._without_texts(data)  # Pillow has limits for texts, which say nothing of pixels
    try:
        with images.quiet():
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            plain = (
                image.mode == "RGB"
                and "transparency" not in image.info
                and 0 < image.width * image.height <= limits.MAX_PIXELS
            )
            if not plain or image.getexif().get(ORIENTATION, 1) != 1:
                return
            image.load()
    except Exception as error:
        if pixels is not None:
            raise Finding("decodes what Pillow refuses", repr(error)) from error
        return
    if pixels is None:
        raise Finding("refuses what Pillow decodes", image.format)
    if "A" in image.getbands() or data[24:26] == b"\x10\x02":  # 16 bits, of which Pillow takes the high ones
        return
    expected = images.resize(np.asarray(image), pixels.shape[:2], method)
    if not np.array_equal(pixels, expected):
        raise Finding(
            f"other pixels than Pillow's, {image.format}", f"{np.abs(pixels.astype(int) - expected).max()} levels at most"
        )


@functools.cache
def seeds() -> dict[str, bytes]:
    """Small files of every format by name, whose first word is the format."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (20, 31, 3), np.uint8)
    y, x = np.mgrid[:40, :56]
    smooth = np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 2 % 256], -1).astype(np.uint8)
    photo, grey = Image.fromarray(smooth), Image.fromarray(smooth[..., 0])
    deep = Image.fromarray(rng.integers(0, 4096, (20, 31)).astype(np.uint16))
    clear = Image.fromarray(np.dstack([smooth, smooth[..., 0]]))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    files = {
        "PNG rgb": _file(Image.fromarray(rgb), "PNG"), "PNG smooth": _file(photo, "PNG", dpi=(72, 72)), "PNG stored": _file(photo, "PNG", compress_level=0),
        "PNG grey": _file(grey, "PNG"), "PNG deep": _file(deep, "PNG"), "PNG palette": _file(photo.quantize(30), "PNG"),
        "PNG clear": _file(clear, "PNG"), "PNG key": _file(photo, "PNG", transparency=(0, 0, 0)), "PNG bits": _file(grey.convert("1"), "PNG"),
        "PNG turned": _file(photo, "PNG", exif=exif), "JPEG plain": _file(photo, "JPEG"), "JPEG best": _file(photo, "JPEG", quality=100, subsampling=0),
        "JPEG progressive": _file(photo, "JPEG", progressive=True), "JPEG grey": _file(grey, "JPEG"), "JPEG cmyk": _file(photo.convert("CMYK"), "JPEG"),
        "JPEG turned": _file(photo, "JPEG", exif=exif), "JPEG restarts": _file(photo, "JPEG", restart_marker_blocks=2), "JPEG narrow": _file(photo.resize((1, 30)), "JPEG"),
        "MPO pair": _file(photo, "MPO", frames=True), "GIF frames": _file(photo.quantize(20), "GIF", frames=True), "GIF key": _file(photo.quantize(20), "GIF", transparency=3),
        "BMP rgb": _file(photo, "BMP"), "BMP palette": _file(photo.quantize(20), "BMP"), "BMP bits": _file(grey.convert("1"), "BMP"),
        "TIFF raw": _file(photo, "TIFF"), "TIFF deep": _file(deep, "TIFF"), "TIFF real": _file(Image.fromarray(smooth[..., 0].astype(np.float32) / 255), "TIFF"),
        "TIFF frames": _file(photo, "TIFF", frames=True), "PPM rgb": _file(photo, "PPM"), "PPM grey": _file(grey, "PPM"), "PPM deep": _file(deep, "PPM"),
        "PPM plain": b"P3 3 2 255 " + b" ".join(b"%d" % value for value in range(18)) + b"\n", "PPM bits": _file(grey.convert("1"), "PPM"),
        "DICOM grey": _dicom(smooth[..., 0]), "DICOM deep": _dicom(smooth[..., 0].astype(np.uint16) * 16), "DICOM rgb": _dicom(smooth),
    }  # fmt: skip
    for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_ccitt"):
        image = grey.convert("1") if kind == "tiff_ccitt" else photo
        files[f"TIFF {kind}"] = _file(image, "TIFF", compression=kind)
    if _has("webp"):
        files |= {
            "WEBP lossy": _file(photo, "WEBP"),
            "WEBP lossless": _file(clear, "WEBP", lossless=True),
            "WEBP frames": _file(photo, "WEBP", frames=True),
        }
    if _has("avif"):
        files |= {"AVIF plain": _file(photo, "AVIF"), "AVIF clear": _file(clear, "AVIF", quality=90)}
    if features.check("jpg_2000"):
        files |= {"JPEG2000 rgb": _file(photo, "JPEG2000"), "JPEG2000 grey": _file(grey, "JPEG2000", irreversible=True)}
    return {name: data for name, data in (files | _heif(photo)).items() if data}


@functools.cache
def huge() -> bytes:
    """Returns as many pixels as are allowed, in 16 kilobytes."""
    return _file(Image.new("P", (11_500, 11_500)), "PNG", transparency=0)


def _file(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image = image.copy()
    if options.pop("frames", 0):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    image.save(file, kind, **options)
    return file.getvalue()


def _has(name: str) -> bool:
    return name in features.get_supported()


def _heif(photo: Image.Image) -> dict[str, bytes]:
    """A HEIC file, where its library is installed."""
    try:
        import pillow_heif
    except ImportError:
        return {}
    file = io.BytesIO()
    pillow_heif.from_pillow(photo).save(file, quality=60)
    return {"HEIF plain": file.getvalue()}


def _dicom(pixels: np.ndarray) -> bytes:
    """A DICOM file without compression; b"" where its library is not installed."""
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
    except ImportError:
        return b""
    data, file = Dataset(), io.BytesIO()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["a picture"])
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = pixels.tobytes()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def claiming(rng: random.Random, data: bytes) -> bytes:
    """Returns a file in which one or two numbers near the beginning, such as width and height, are others."""
    at = rng.randrange(min(len(data), 400))
    kind = rng.choice(("<H", ">H", "<I", ">I"))
    most = 0xFFFF if kind[1] == "H" else 0xFFFFFFFF
    value = rng.choice((0, 1, 11_000, 11_000, 16_383, 20_000, 65_535, most // 2, most))
    new = struct.pack(kind, value) * rng.choice((1, 2))
    return data[:at] + new + data[at + len(new) :]
