"""The compiled PNG decoder and resize give Pillow's pixels or leave a file to it, and touch no memory but their own."""

import io
import os
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import chunk, encoded, noise, png, smooth

from cnnjax.data import images, pixels

compiled = pytest.mark.skipif(not pixels.available(), reason="cnnjax.data.pixels is not compiled")
BILINEAR = Image.Resampling.BILINEAR


def seeds():
    """Small plain PNG files, stored without compression."""
    rng = np.random.default_rng(0)
    sizes = [map(int, rng.integers(1, 41, 2)) for _ in range(60)]
    return [encoded((noise, smooth)[i % 2](*size), "PNG", compress_level=0) for i, size in enumerate(sizes)]


def damaged(rng, files):
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 4)]
        elif kind == 3:
            data[at:at] = rng.choice((b"\0\0", b"IDAT", b"IEND", b"\xff"))
        else:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def with_any_filters(rng, height, width):
    rows = rng.integers(0, 256, (height, 3 * width + 1), np.uint8)
    rows[:, 0] = rng.integers(0, 5, height)
    return png(height, width, rows.tobytes())


def same_as_pillow(data) -> bool:
    """Returns whether the file is decoded here; then Pillow must give the same pixels."""
    (found,) = pixels.decode([data])
    if found is not None:
        with images.quiet():
            assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data))))
    return found is not None


@compiled
def test_damaged_files_are_read_as_by_pillow_or_left_to_it():
    rng, files = random.Random(0), seeds()
    assert all(map(same_as_pillow, files))
    assert sum(same_as_pillow(damaged(rng, files)) for _ in range(1000)) < 500


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 4), (4, 3), (5, 2), (9, 1), (23, 31)])
def test_all_filters_of_png_in_any_order_are_undone(size):
    rng = np.random.default_rng(0)
    assert all(same_as_pillow(with_any_filters(rng, *size)) for _ in range(20))


@compiled
def test_png_that_is_not_whole_is_left_to_pillow():
    rows = bytes(4 * (3 * 5 + 1))
    assert pixels.decode([png(4, 5, rows)])[0].shape == (4, 5, 3)
    checksum = bytearray(zlib.compress(rows))
    checksum[-1] ^= 1
    unknown = b"\5" + rows[1:]
    for data in (png(4, 5, rows[:-1]), png(4, 5, rows + b"\0"), png(4, 5, unknown), png(4, 5, b"", compressed=bytes(checksum)),
                 png(4, 5, b"", compressed=zlib.compress(rows)[:-3]), png(4, 5, rows) + b"x", png(4, 5, rows)[:-12],
                 png(11_000, 11_000, rows)):  # fmt: skip
        assert pixels.decode([data]) == [None]


@compiled
def test_png_in_several_parts():
    rows = bytes([0, *range(15)] * 4)
    whole = zlib.compress(rows)
    parts = b"".join(chunk(b"IDAT", part) for part in (whole[:5], whole[5:9], whole[9:]))
    data = png(4, 5, b"", before=parts, compressed=b"x")
    assert same_as_pillow(data.replace(chunk(b"IDAT", b"x"), b""))


@compiled
@pytest.mark.parametrize("most", [5, 40, 400])
def test_resize_is_pillows_bit_for_bit(most):
    rng = np.random.default_rng(most)
    for _ in range(60):
        (height, width), (to_height, to_width) = rng.integers(1, most, 2).tolist(), rng.integers(1, 300, 2).tolist()
        image = noise(height, width, seed=rng) * rng.choice(np.array([1, 255], np.uint8))
        out = np.empty((to_height, to_width, 3), np.uint8)
        pixels.resize(image, out)
        rows = Image.fromarray(image).resize((to_width, height), BILINEAR)
        assert np.array_equal(out, np.asarray(rows.resize((to_width, to_height), BILINEAR)))


@compiled
def test_resize_takes_rows_with_gaps_and_any_other_layout():
    image = noise(40, 30)
    gaps = np.zeros((40, 97), np.uint8)
    gaps[:, 3:93] = image.reshape(40, 90)
    expected = np.empty((9, 14, 3), np.uint8)
    pixels.resize(image, expected)
    for same in (gaps[:, 3:93].reshape(40, 30, 3), np.asfortranarray(image), np.ascontiguousarray(image[::-1])[::-1]):
        room = np.full((11, 16, 3), 7, np.uint8)
        pixels.resize(same, room[1:10, 1:15])
        assert np.array_equal(room[1:10, 1:15], expected)
        assert (room[0] == 7).all() and (room[10] == 7).all() and (room[:, [0, 15]] == 7).all()


# Damages the files given, decodes them out of memory of exactly their size, resizes, and prints a number of all pixels. Its
# inflate takes stored blocks alone and its checksum is always right, so that damage goes deep.
DRIVER = r"""
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include "pixels.h"
extern "C" {
int cnnjax_resize(const uint8_t*, long, long, long, uint8_t*, long, long, long);
void cnnjax_decode(long, const uint8_t* const*, const long*, const pixels::Inflater*, const long (*)[2], uint8_t* const*, bool*);
}
std::mt19937 engine;
size_t below(size_t n) { return engine() % std::max<size_t>(n, 1); }
int inflate(void*, const void* from, size_t size, void* to, size_t room, size_t* found) {
  auto* bytes = static_cast<const uint8_t*>(from);
  bool last = false;
  *found = 0;
  for (size_t at = 2; !last;) {
    if (at + 5 > size || bytes[at] > 1) return 1;
    last = bytes[at];
    const size_t length = bytes[at + 1] | bytes[at + 2] << 8;
    at += 5;
    if (length > size - at || length > room - *found) return 1;
    std::memcpy(static_cast<uint8_t*>(to) + *found, bytes + at, length);
    at += length, *found += length;
  }
  return 0;
}
const pixels::Inflater inflater{[]() -> void* { return &engine; }, [](void*) {}, inflate, [](uint32_t, const void* data, size_t size) {
  auto* after = static_cast<const uint8_t*>(data) + size;
  return uint32_t(after[0]) << 24 | after[1] << 16 | after[2] << 8 | after[3];
}};
std::string damaged(const std::vector<std::string>& files) {
  static const std::string words[] = {{"\0\0\0\0\0\0", 6}, "\xFF\xFF", "IDAT", "IEND", "tIME", "\x7F\xFF", "\4"};
  std::string s = files[below(files.size())];
  for (size_t left = 1 + below(3); left && s.size() > 40; left--) {
    const size_t at = below(below(2) ? s.size() : std::min<size_t>(s.size(), 640)), kind = below(9), more = below(30);
    const std::string &other = files[below(files.size())], &word = words[below(7)];
    const size_t from = below(other.size());
    if (kind < 2) s[at] = char(engine());
    else if (kind == 2) s[at] ^= 1 << below(8);
    else if (kind == 3) s.erase(at, more);
    else if (kind == 4) s.insert(at, other, from, more);
    else if (kind == 5) s.insert(at, word);
    else if (kind == 6) s.replace(at, word.size(), word);
    else if (kind == 7) s = s.substr(0, at) + other.substr(from);
    else if (s.size() > 24 && below(2)) s[16 + below(8)] = char(below(40));  // the size
    else s.resize(at);
  }
  return s;
}
int main(int count, char** names) {
  std::vector<std::string> files;
  for (int i = 1; i < count; i++) {
    std::string bytes;
    FILE* file = std::fopen(names[i], "rb");
    for (int byte; (byte = std::getc(file)) >= 0;) bytes += char(byte);
    std::fclose(file), files.push_back(bytes);
  }
  uint32_t all = 0;
  long decoded = 0;
  for (int round = 0; round < ROUNDS; round++) {
    const std::string bytes = damaged(files);
    const long size = bytes.size();
    const std::unique_ptr<uint8_t[]> copy(new uint8_t[size]);
    std::memcpy(copy.get(), bytes.data(), size);
    // What pixels/__init__.py looks at: the sides are within the first 29 bytes, and not too large.
    if (size < 29) continue;
    auto side = [&](int at) { return copy[at] << 24L | copy[at + 1] << 16 | copy[at + 2] << 8 | copy[at + 3]; };
    const long shape[1][2] = {{side(20), side(16)}};
    if (shape[0][0] < 1 || shape[0][0] > 999 || shape[0][1] < 1 || shape[0][1] > 999) continue;
    const std::unique_ptr<uint8_t[]> whole(new uint8_t[3 * shape[0][0] * shape[0][1] + 1]);
    const uint8_t* const start = copy.get();
    uint8_t* const to = whole.get();
    bool done;
    cnnjax_decode(1, &start, &size, &inflater, shape, &to, &done);
    if (!done) continue;
    const long height = 1 + below(60), width = 1 + below(60), length = 3 * height * width;
    const std::unique_ptr<uint8_t[]> out(new uint8_t[length]);
    cnnjax_resize(to, 3 * shape[0][1], shape[0][0], shape[0][1], out.get(), 3 * width, height, width);
    decoded++;
    for (long i = 0; i < length; i++) all = 31 * all + out[i];
  }
  std::printf("%ld %u\n", decoded, all);
}
"""
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_sanitizers_find_nothing_in_damaged_files_and_all_instruction_sets_agree(tmp_path):
    for i, data in enumerate(seeds()):
        (tmp_path / f"{i:03}.image").write_bytes(data)
    (tmp_path / "driver.cc").write_text(DRIVER)
    printed = []
    for name in ("widest", "plain"):
        source = tmp_path / name
        shutil.copytree(Path(pixels.__file__).parent, source, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        if name == "plain":
            code = (source / "resize.cc").read_text()
            assert '__builtin_cpu_supports("avx2")' in code
            (source / "resize.cc").write_text(code.replace('__builtin_cpu_supports("avx2")', "false"))
        command = [COMPILER, "-std=c++17", "-O1", "-g", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                   "-DROUNDS=30000", '-DCNNJAX_SOURCES=""', f"-I{source}", tmp_path / "driver.cc", *sorted(source.glob("*.cc")),
                   "-o", source / "driver"]  # fmt: skip
        built = subprocess.run(command, capture_output=True, text=True)
        if "cannot find" in built.stderr:
            pytest.skip(f"the compiler has no sanitizer: {built.stderr.splitlines()[0]}")
        assert built.returncode == 0, built.stderr
        done = subprocess.run(
            [source / "driver", *sorted(tmp_path.glob("*.image"))], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] and int(printed[0].split()[0]) > 1000
