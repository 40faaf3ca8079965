"""The C++ PNG reader and resize, compiled with sanitizers: Pillow's pixels, or the file is left to Pillow.

`environment` compiles them into a temporary folder, once with the widest instructions of this machine and once without, and names the
folder; the process that has the sanitizer's library in LD_PRELOAD then uses them. Without that, `attempt` judges the library that is
installed.
"""

import atexit
import functools
import hashlib
import io
import os
import random
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
from fuzz.findings import Finding, Skip
from fuzz.mutations import damaged
from PIL import Image

from cnnjax.data import images
from cnnjax.data import pixels as pixels_lib

SECONDS = 30  # of an attempt, after which its process is ended
FOLDER = "CNNJAX_FUZZ_PIXELS"  # environment: where the compiled libraries are
BILINEAR = Image.Resampling.BILINEAR
LIBRARIES = []  # of `begin`
WIDEST = '__builtin_cpu_supports("avx2")'


def attempt(rng: random.Random, folder: Path) -> None:
    """Decodes damaged files and resizes arrays. Raises Finding."""
    if LIBRARIES:
        library = rng.choice(LIBRARIES)
        pixels_lib._library = lambda: library
    files = [changed(rng) for _ in range(rng.randrange(1, 4))]
    for number, data in enumerate(files):
        (folder / f"{number}.png").write_bytes(data)
    check_files(files)
    side = rng.choice((2, 5, 40, 400))
    sizes = [rng.randrange(1, side + 1) for _ in range(4)]
    check_resize(np.random.default_rng(rng.getrandbits(32)), *sizes)


def check_files(files: list[bytes]) -> int:
    """Compares files with Pillow; returns how many are decoded here."""
    pixels_lib._room = pixels_lib.Room()  # memory of exactly this size, so that a byte behind it is seen
    found = pixels_lib.decode(files)
    for data, pixels in zip(files, found, strict=True):
        if pixels is None:
            continue
        try:
            with images.quiet():
                expected = np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]))
        except Exception as error:
            raise Finding("decodes what Pillow refuses", repr(error)) from error
        if not np.array_equal(pixels, expected):
            raise Finding("other pixels than Pillow's", f"{pixels.shape}, {expected.shape}")
    return sum(pixels is not None for pixels in found)


def check_resize(rng: np.random.Generator, height: int, width: int, to_height: int, to_width: int) -> None:
    """Compares a resize of random pixels, in rows with or without gaps, with Pillow; nothing beside the result may change."""
    gap, to_gap, first = rng.integers(0, 9, 3).tolist()
    rows = rng.integers(0, 256, (height, 3 * width + gap), np.uint8) * rng.choice(np.array([1, 255], np.uint8))
    source = rows[:, : 3 * width].reshape(height, width, 3) if not gap else np.lib.stride_tricks.as_strided(
        rows, (height, width, 3), (rows.strides[0], 3, 1))  # fmt: skip
    room = np.full((to_height + 2, first + 3 * to_width + to_gap), 7, np.uint8)
    out = np.lib.stride_tricks.as_strided(room[1:, first:], (to_height, to_width, 3), (room.strides[0], 3, 1))
    pixels_lib.resize(source, out)
    expected = Image.fromarray(np.ascontiguousarray(source)).resize((to_width, height), BILINEAR)
    expected = np.asarray(expected.resize((to_width, to_height), BILINEAR))
    said = f"{height}x{width} to {to_height}x{to_width}, gaps {gap} and {to_gap}"
    if not np.array_equal(out, expected):
        raise Finding("another resize than Pillow's", said)
    out[:] = 7
    if not (room == 7).all():
        raise Finding("a resize writes beside its result", said)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Small plain PNG files, stored without compression and compressed."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(60):
        height, width = (int(side) for side in rng.integers(1, 41, 2))
        pixels = (
            rng.integers(0, 256, (height, width, 3), np.uint8)
            if number % 2
            else np.full((height, width, 3), number, np.uint8)
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=number % 3 * 4)
        found.append(file.getvalue())
    return tuple(found)


def changed(rng: random.Random) -> bytes:
    """A file that is damaged somewhere; half of them have right checksums, so that the damage goes deep."""
    whole = rng.choice(seeds())
    kind = rng.choice((0, 1, 2, 3, 3, 3))
    if kind == 0:
        return damaged(rng, whole, seeds())
    parts = _chunks(whole)
    if kind == 1:  # parts in disorder, of other sizes, twice or gone
        parts += [
            (rng.choice((b"IDAT", b"IEND", b"tEXt", b"PLTE", b"tRNS", b"gAMA", b"IHDR")), rng.randbytes(rng.randrange(9)))
        ]
        rng.shuffle(parts) if rng.random() < 0.3 else parts.insert(rng.randrange(1, len(parts)), parts.pop())
    elif kind == 2:  # another header
        at = rng.randrange(13)
        parts[0] = (
            b"IHDR",
            parts[0][1][:at] + bytes([rng.choice((0, 1, 2, 8, 16, rng.randrange(256)))]) + parts[0][1][at + 1 :],
        )
    else:  # rows with other filters, too many or too few bytes
        packed = b"".join(content for name, content in parts if name == b"IDAT")
        whole_rows = zlib.decompress(packed)
        rows = damaged(rng, whole_rows)
        if rng.random() < 0.8:
            rows = bytearray(rows.ljust(len(whole_rows), b"\0")[: len(whole_rows)])
            width = int.from_bytes(parts[0][1][:4], "big")
            rows[:: 3 * width + 1] = bytes(rng.choices(range(5), k=len(rows[:: 3 * width + 1])))
        packed = damaged(rng, packed) if rng.random() < 0.2 else zlib.compress(rows, rng.choice((0, 1, 9)))
        at = rng.randrange(len(packed) + 1)
        parts = [parts[0], (b"IDAT", packed[:at]), (b"IDAT", packed[at:]), parts[-1]]
    return whole[:8] + b"".join(chunk(*part) for part in parts)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    return found


# The sanitizers


@functools.cache
def environment(*, change: tuple[str, str, str] | None = None) -> dict[str, str]:
    """Compiles the sources with sanitizers, changed as (file, old, new) says; returns what the fuzzer's process needs.

    Raises:
        Skip: no compiler, or one without sanitizers.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise Skip("no C++ compiler")
    named = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(named):
        raise Skip(f"{compiler} has no libasan.so")
    root = Path(tempfile.mkdtemp(prefix="cnnjax-fuzz-pixels-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name in ("widest", "plain"):
        _compile(compiler, root / name, change, plain=name == "plain")
    return {FOLDER: str(root), "LD_PRELOAD": os.path.realpath(named), "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}  # fmt: skip


def _compile(compiler: str, folder: Path, change: tuple[str, str, str] | None, *, plain: bool) -> None:
    shutil.copytree(Path(pixels_lib.__file__).parent, folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    changes = [change] if change else []
    if plain:
        changes += [
            (path.name, WIDEST, "false")
            for path in [*folder.glob("*.cc"), *folder.glob("*.h")]
            if WIDEST in path.read_text()
        ]
        assert changes, f"{WIDEST} is in no source: nothing is left out"
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    digest = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted([*folder.glob("*.cc"), *folder.glob("*.h")]))
    ).hexdigest()
    done = subprocess.run(
        [compiler, "-std=c++17", "-O1", "-g", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", f'-DCNNJAX_SOURCES="{digest}"', f"-I{folder}", *sorted(folder.glob("*.cc")), "-o",
         folder / "images.so"], capture_output=True, text=True)  # fmt: skip
    if "cannot find" in done.stderr:
        raise Skip(f"the compiler has no sanitizer: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr


def begin() -> None:
    """Loads the compiled libraries, from which every attempt draws one."""
    for name in ("plain", "widest"):
        pixels_lib.FOLDER = Path(os.environ[FOLDER]) / name
        pixels_lib._library.cache_clear()
        assert pixels_lib.available(), f"{pixels_lib.FOLDER} has no library"
        LIBRARIES.append(pixels_lib._library())
