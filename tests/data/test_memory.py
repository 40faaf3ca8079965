"""Decoding one picture takes no more memory than `limits.MAX_MEMORY`, whatever its file is or declares."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cnnjax.data import images, limits

pydicom = pytest.importorskip("pydicom")
pillow_heif = pytest.importorskip("pillow_heif")
CHILD = r"""
import sys
from cnnjax.data import images, limits

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

most = limits.MAX_MEMORY
for path in sys.argv[1:]:
    data, limits.MAX_MEMORY, said = open(path, "rb").read(), most, "decoded"
    if "small" in path:
        images.decode_resized(data, 64, "bilinear", None, (0.0, 9.0))
        continue
    open("/proc/self/clear_refs", "w").write("5")
    before = kilobytes("VmRSS")
    try:
        images.decode_resized(data, 64, "bilinear", None, (0.0, 9.0))
    except images.ImageError as error:
        said = str(error)
    peak = (kilobytes("VmHWM") - before) // 1024
    limits.MAX_MEMORY = 0
    try:
        images.decode_resized(data, 64, "bilinear", None, (0.0, 9.0))
    except images.ImageError as error:
        print(peak, said, error, sep="|")
"""


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side, depth, colour, extra=b"", interlace=0, filled=True):
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    steps = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)) if interlace else ((1, 1),)  # side: a multiple of 8
    deflater = zlib.compressobj(1)
    rows = [deflater.compress(bytes(1 + -(-side // x * bits // 8)) * (side // y)) for x, y in steps] if filled else []
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlace)
    return b"".join((images.PNG_SIGNATURE, chunk(b"IHDR", header), extra, chunk(b"IDAT", b"".join((*rows, deflater.flush()))),
                     chunk(b"IEND", b"")))  # fmt: skip


def saved(mode, side, kind, **options):
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()


def tiff(side, channels, kind, **options):
    file = io.BytesIO()
    shape = (side, side, channels)[: 2 + (channels > 1)]
    tifffile.imwrite(file, np.zeros(shape, kind), compression="zlib", photometric="rgb" if channels > 1 else None, **options)
    return file.getvalue()


def dicom(side, kind, frame=b"", syntax=pydicom.uid.ExplicitVRLittleEndian, bits=16, claimed=0):
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows = file.Columns = claimed or side
    file.SamplesPerPixel, file.PhotometricInterpretation = (1 if kind == "MONOCHROME2" else 3), kind
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation, file.PlanarConfiguration = (
        bits,
        bits,
        bits - 1,
        0,
        0,
    )
    file.PixelData = pydicom.encaps.encapsulate([frame]) if frame else bytes(side * side * file.SamplesPerPixel * bits // 8)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def heic(side):
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (side, side))).save(file, quality=50)
    return file.getvalue()


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


PALETTE = chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\x80\xff")
KINDS = {
    "RGB PNG": lambda side: png(side, 8, 2),
    "RGB PNG interlaced": lambda side: png(side, 8, 2, interlace=1),
    "RGBA PNG": lambda side: png(side, 8, 6),
    "RGBA PNG of 16 bits": lambda side: png(side, 16, 6),
    "LA PNG": lambda side: png(side, 8, 4),
    "palette with transparency": lambda side: png(side, 8, 3, PALETTE),
    "grey PNG of 16 bits": lambda side: png(side, 16, 0),
    "JPEG": lambda side: saved("RGB", side, "JPEG"),
    "JPEG turned": lambda side: saved("RGB", side, "JPEG", exif=turned(6)),
    "JPEG progressive": lambda side: saved("RGB", side, "JPEG", progressive=True, subsampling=0),
    "JPEG of CMYK progressive": lambda side: saved("CMYK", side, "JPEG", progressive=True),
    "WebP": lambda side: saved("RGBA", side, "WEBP", lossless=True),
    "AVIF": lambda side: saved("RGBA", side, "AVIF", speed=10, subsampling="4:4:4"),
    "JPEG 2000": lambda side: saved("RGBA", side, "JPEG2000"),
    "GIF": lambda side: saved("P", side, "GIF", transparency=0),
    "BMP": lambda side: saved("RGBA", side, "BMP"),
    "PPM": lambda side: saved("RGB", side, "PPM"),
    "TIFF turned": lambda side: saved("RGB", side, "TIFF", compression="tiff_lzw", exif=turned(6)),
    "TIFF of one strip": lambda side: tiff(side, 3, np.uint8, rowsperstrip=side),
    "TIFF of 16 bits": lambda side: tiff(side, 3, np.uint16, rowsperstrip=side),
    "TIFF of floats": lambda side: tiff(side, 1, np.float32),
    "HEIC": heic,
    "DICOM": lambda side: dicom(side, "MONOCHROME2"),
    "DICOM of colours": lambda side: dicom(side, "YBR_FULL", bits=8),
}  # fmt: skip


def measured(folder, files):
    """Peak memory in MB, the outcome, and the need that is checked, of files decoded one after the other in a child process."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not say the peak of a process from here on")
    paths = []
    for i, (name, side) in enumerate(files):
        for label, data in ((f"small{i}", KINDS[name](64)), (f"large{i}", KINDS[name](side))):
            paths.append(folder / label)
            paths[-1].write_bytes(data)
    environment = {**os.environ, "PYTHONPATH": str(Path(images.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    return {name: (int(peak), said, need) for (name, _), (peak, said, need) in zip(files, lines, strict=True)}


@pytest.mark.slow
def test_decoding_takes_no_more_than_is_checked_beforehand(tmp_path):
    for name, (peak, said, need) in measured(tmp_path, [(name, 2048) for name in KINDS]).items():
        assert said == "decoded", name
        assert peak <= int(need.partition(" take ")[2].partition(" MB")[0]), (name, peak, need)


LARGEST = {"RGB PNG": 11584, "RGBA PNG": 7600, "JPEG turned": 7600, "JPEG progressive": 6700, "TIFF of one strip": 7600,
           "HEIC": 7000}  # fmt: skip


@pytest.mark.slow
def test_the_largest_pictures_stay_below_the_limit(tmp_path):
    for name, (peak, said, _) in measured(tmp_path, list(LARGEST.items())).items():
        assert said == "decoded" and peak * limits.MEGABYTE <= limits.MAX_MEMORY, (name, peak, said)


def bomb_in_a_strip():
    """A TIFF file of 16 bits whose strip becomes 600 MB, of which the picture takes 30 KB."""
    data = bytearray(tiff(64, 3, np.uint16, rowsperstrip=64))
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    deflater = zlib.compressobj(9)
    strip = b"".join([*(deflater.compress(bytes(2**20)) for _ in range(600)), deflater.flush()])
    for tag, value in (("StripOffsets", len(data)), ("StripByteCounts", len(strip))):
        at = page.tags[tag].valueoffset
        struct.pack_into("<I" if page.tags[tag].dtype == 4 else "<H", data, at, value)
    return bytes(data) + strip


def tags(*entries):
    """A little-endian TIFF file of whole numbers: (tag, value)."""
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
        + bytes(64)
    )


PICTURE = ((256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1))
FRAME = saved("L", 512, "JPEG2000", no_jp2=True)
RUN = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 20000  # 128 bytes of every two
WEBP = b"VP8X" + struct.pack("<II", 10, 0) + (10999).to_bytes(3, "little") * 2
REFUSED = {
    "RGBA": (png(11000, 8, 6, filled=False), "11000x11000 pixels in mode RGBA take 816 MB, more than 400 MB; save the picture smaller"),
    "16 bits": (png(11000, 16, 0, filled=False), "11000x11000 pixels in mode I;16 take"),
    "film": (png(8000, 8, 6, chunk(b"acTL", bytes(8)), filled=False), "8000x8000 pixels in mode RGBA take"),
    "one row": (b"P5\n300000 2\n255\n", "300000x2 pixels, more than 262,144 in a row or column"),
    "WebP": (b"RIFF" + struct.pack("<I", 22) + b"WEBP" + WEBP, "11000x11000 pixels in mode RGB take"),
    "large tile": (tags(*PICTURE, (322, 60000), (323, 60000), (324, 8), (325, 9)), "16x16 pixels in mode L take 3442 MB"),
    "tile twice": (tags(*PICTURE, (322, 60000), (322, 16), (323, 16), (324, 8), (325, 9)), "tag 322 of the TIFF file is given twice"),
    "strip": (bomb_in_a_strip(), "64x64 pixels in mode RGB;16 take .* MB, more than 400 MB"),
    "DICOM": (dicom(8, "MONOCHROME2", claimed=9000), "9000x9000 pixels in mode MONOCHROME2 take"),
    "frame": (dicom(8, "MONOCHROME2", FRAME, pydicom.uid.JPEG2000Lossless, 8), "a frame of 512x512 pixels in a file of 8x8"),
    "runs": (dicom(8, "MONOCHROME2", RUN, pydicom.uid.RLELossless, 8), "a frame longer than its rows and columns"),
    "deflated": (dicom(6000, "MONOCHROME2", syntax=pydicom.uid.DeflatedExplicitVRLittleEndian), "a deflated file of more than 32 MB"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_claim_is_refused_with_one_line(data, reason):
    with pytest.raises(images.ImageError, match=reason) as error:
        images.decode(data, (0, 1))
    assert "\n" not in str(error.value)


def test_a_file_of_too_many_bytes_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 3 * limits.MEGABYTE)
    with pytest.raises(images.ImageError, match="a file of 4 MB, more than 3 MB; save the picture smaller"):
        images.decode(bytes(4 * limits.MEGABYTE))


def test_colours_of_dicom_are_converted_once():
    grey = dicom(8, "YBR_FULL", bits=8)
    at = grey.rindex(bytes(192))
    found = images.decode(grey[:at] + bytes((90, 128, 128)) * 64)
    assert found.shape == (8, 8, 3) and np.unique(found).tolist() == [90]


@pytest.mark.parametrize("number", range(1, 9))
def test_pictures_of_several_bands_are_turned_as_pillow_turns_them(number):
    pixels = np.random.default_rng(number).integers(0, 256, (1100, 700, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=turned(number))
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    image = Image.fromarray(pixels)
    expected = image.transpose(Image.Transpose(methods[number])) if number > 1 else image
    np.testing.assert_array_equal(images.decode(file.getvalue()), np.asarray(expected))
