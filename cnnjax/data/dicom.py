"""DICOM files through pydicom, which is an extra."""

import contextlib
import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.data import limits
from cnnjax.data.bands import bands

PREAMBLE = 128  # bytes before the signature
SIGNATURE = b"DICM"
MISSING = "a DICOM file, which takes pydicom: pip install 'cnnjax[dicom]'"
TAGS = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "NumberOfFrames",
        "PixelRepresentation", "PlanarConfiguration", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope")  # fmt: skip
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
# Bytes a pixel: of levels, of RGB, of colours that become RGB, measured; of each further byte of a colour and of compressed ones, an
# upper estimate.
GREY, RGB, OTHER_COLOURS, FURTHER_BYTE, COMPRESSED = 8, 8, 32, 3, 16
DEFLATE_MOST = 2**25  # bytes of a deflated data set, which pydicom keeps three times


def is_dicom(data: bytes) -> bool:
    """Returns whether a file begins as DICOM does."""
    return data[PREAMBLE : PREAMBLE + len(SIGNATURE)] == SIGNATURE


def read(data: bytes) -> np.ndarray:
    """Returns the first frame in the units of its device: Hounsfield units of CT, density where MONOCHROME1 is turned around.

    Returns:
        float32 [height, width], or uint8 [height, width, 3] of colours.

    Raises:
        ImportError: pydicom is missing.
        ImageError: more than `limits.MAX_MEMORY`.
    """
    import pydicom
    from pydicom import pixels

    source: Any = io.BytesIO(data)
    deflated = DEFLATED.encode() in data[:4096]
    if deflated:
        _check_deflated(data)
    file = pydicom.dcmread(source, stop_before_pixels=not deflated, specific_tags=[*TAGS, *["PixelData"] * deflated])
    syntax = file.file_meta.TransferSyntaxUID
    compressed = syntax.is_compressed and not deflated
    _check(file, compressed)
    if compressed:
        _check_frame(pydicom, source, file)
    values = pixels.pixel_array(file if deflated else source, index=0)
    if values.ndim == 3:
        return (values >> max(file.BitsStored - 8, 0)).astype(np.uint8, copy=False)
    out = np.empty(values.shape, np.float32)
    for rows in bands(*values.shape):
        out[rows] = pixels.apply_modality_lut(values[rows], file)
    return np.negative(out, out=out) if file.PhotometricInterpretation == "MONOCHROME1" else out


def _check(file: Any, compressed: bool) -> None:
    """Raises ImageError for a frame whose declared size takes more memory than is allowed."""
    samples, kind, size = file.get("SamplesPerPixel", 1), file.PhotometricInterpretation, max(file.BitsAllocated, 8) // 8
    if samples == 1:
        cost = max(GREY, size + 4)
    else:
        cost = (RGB if kind == "RGB" else OTHER_COLOURS) * max(samples / 3, 1) + samples * FURTHER_BYTE * (size - 1)
    limits.check(file.Columns, file.Rows, kind, cost + COMPRESSED * compressed)


def _check_frame(pydicom: Any, source: io.BytesIO, file: Any) -> None:
    """Raises ImageError where the first compressed frame, before whose element `source` is, becomes more than is declared."""
    source.seek(12, io.SEEK_CUR)
    frame = pydicom.encaps.get_frame(source, 0, number_of_frames=int(file.get("NumberOfFrames", 1)))
    size, declared = None, (file.Columns, file.Rows)
    if file.file_meta.TransferSyntaxUID == RLE:
        if _run_lengths(frame) > 2 * file.Columns * file.Rows * file.SamplesPerPixel * (file.BitsAllocated // 8) + 2**20:
            raise limits.ImageError("damaged: a frame longer than its rows and columns; save the picture again")
        return
    with contextlib.suppress(Exception):  # not of a kind that Pillow decodes
        size = Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")).size
    if size not in (None, declared):
        raise limits.ImageError(
            f"damaged: a frame of {size[0]}x{size[1]} pixels in a file of {declared[0]}x{declared[1]}; save the picture again"
        )


def _run_lengths(frame: bytes) -> int:
    """The bytes that the segments of a frame become."""
    found, at = 0, 64
    while at < len(frame):
        count = frame[at]
        found += 257 - count if count > 128 else (count + 1 if count < 128 else 0)
        at += 2 if count > 128 else (count + 2 if count < 128 else 1)
    return found


def _check_deflated(data: bytes) -> None:
    """Raises ImageError for a deflated data set that becomes more than `DEFLATE_MOST`."""
    length = int.from_bytes(
        data[140:144], "little"
    )  # of the group that says how the rest is written, after bytes 132 to 143
    if limits.inflated(zlib.decompressobj(-zlib.MAX_WBITS), memoryview(data)[144 + length :], DEFLATE_MOST) > DEFLATE_MOST:
        raise limits.ImageError(
            f"a deflated file of more than {DEFLATE_MOST // limits.MEGABYTE} MB; save the picture without compression"
        )
