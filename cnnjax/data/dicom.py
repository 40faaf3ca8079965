"""DICOM files through pydicom, which is an extra."""

import io

import numpy as np

PREAMBLE = 128  # bytes before the signature
SIGNATURE = b"DICM"
MISSING = "a DICOM file, which takes pydicom: pip install 'cnnjax[dicom]'"


def is_dicom(data: bytes) -> bool:
    """Returns whether a file begins as DICOM does."""
    return data[PREAMBLE : PREAMBLE + len(SIGNATURE)] == SIGNATURE


def read(data: bytes, most: int) -> np.ndarray:
    """Returns the first frame in the units of its device: Hounsfield units of CT, density where MONOCHROME1 is turned around.

    Args:
        data: the file.
        most: pixels, width times height, that are allowed.

    Returns:
        float32 [height, width], or uint8 [height, width, 3] of colours.

    Raises:
        ImportError: pydicom is missing.
        ValueError: too large.
    """
    import pydicom
    from pydicom import pixels

    file = pydicom.dcmread(io.BytesIO(data))
    if file.Rows * file.Columns > most:
        raise ValueError(f"{file.Columns}x{file.Rows} pixels, more than {most:,}")
    values = pixels.pixel_array(file, index=0)
    if values.ndim == 3:
        kind = file.PhotometricInterpretation
        values = values if kind == "RGB" else pixels.convert_color_space(values, kind, "RGB")
        return (values >> max(file.BitsStored - 8, 0)).astype(np.uint8)
    values = pixels.apply_modality_lut(values, file).astype(np.float32)
    return -values if file.PhotometricInterpretation == "MONOCHROME1" else values
