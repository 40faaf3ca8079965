"""DICOM and HEIC, which are read with an extra and named without it."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import images

pydicom = pytest.importorskip("pydicom")
pillow_heif = pytest.importorskip("pillow_heif")
RAMP = (np.arange(40)[:, None] + 64 * np.arange(60)).astype(np.uint16)


def dicom(values, kind="MONOCHROME2", **elements):
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file.Rows, file.Columns = values.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = (3 if values.ndim == 3 else 1), kind
    bits = 8 * values.itemsize
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = (
        bits,
        bits,
        bits - 1,
        int(values.dtype.kind == "i"),
    )
    if values.ndim == 3:
        file.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_dicom_is_read_in_the_units_of_its_device():
    data = dicom(RAMP, RescaleSlope=2, RescaleIntercept=-1024)
    facts = images.decode_resized(data, 16, "bilinear")[1]
    assert (facts["format"], facts["width"], facts["height"]) == ("DICOM", 60, 40)
    assert float(facts["low"]) == pytest.approx(-1024, abs=20) and float(facts["high"]) == pytest.approx(
        2 * RAMP.max() - 1024, abs=20
    )
    out = images.decode(data, (-1024, 2 * int(RAMP.max()) - 1024))
    np.testing.assert_allclose(out[..., 0], RAMP * (255 / RAMP.max()), atol=1)
    assert images.decode(data).max() == 255, "the file's own range, where no other is known"


def test_dicom_whose_black_is_white_signed_or_of_colours():
    turned = images.decode(dicom(RAMP, "MONOCHROME1"), (-int(RAMP.max()), 0))
    np.testing.assert_allclose(turned[..., 0], 255 - RAMP * (255 / RAMP.max()), atol=1)
    signed = images.decode(dicom(RAMP.astype(np.int16) - 2000), (-2000, int(RAMP.max()) - 2000))
    np.testing.assert_allclose(signed[..., 0], RAMP * (255 / RAMP.max()), atol=1)
    colours = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(dicom(colours, "RGB")), colours)


def test_damaged_dicom_has_a_reason():
    data = dicom(RAMP)
    for cut in (140, 300, len(data) - 100):
        with pytest.raises(images.ImageError):
            images.decode(data[:cut])


def heic(pixels, **options):
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(out, quality=100, **options)
    return out.getvalue()


def test_heic_is_read_and_damage_has_a_reason():
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8)
    data = heic(pixels)
    out = images.decode(data)
    assert out.shape == pixels.shape and abs(out.astype(int) - pixels).mean() < 3
    with pytest.raises(images.ImageError):
        images.decode(data[: len(data) // 2])


@pytest.mark.parametrize(("module", "data", "said"), [
    ("pydicom", dicom(RAMP), "pip install 'cnnjax\\[dicom\\]'"), ("pillow_heif", heic(np.zeros((32, 32, 3), np.uint8)), "cnnjax\\[heif\\]"),
], ids=["dicom", "heif"])  # fmt: skip
def test_without_the_extra_the_reason_names_it(monkeypatch, module, data, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(images.ImageError, match=said):
        images.decode(data)
