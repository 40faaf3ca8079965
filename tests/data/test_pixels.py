"""The compiled decoder reads damaged and hostile files as Pillow does, or leaves them alone, and touches no memory but its own."""

import io
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import encoded, noise, smooth

from cnnjax.data import images, pixels

compiled = pytest.mark.skipif(not pixels.available(), reason="cnnjax.pixels is not compiled")


def segment(marker, content):
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def after_start(data, marker, content):
    return data[:2] + segment(marker, content) + data[2:]


def with_quantisation(data, factor):
    """All entries of the tables times `factor`."""
    out = bytearray(data)
    at = 2
    while out[at + 1] != 0xDA:
        if out[at + 1] == 0xDB:
            out[at + 5 : at + 69] = bytes(min(value * factor, 255) for value in out[at + 5 : at + 69])
        at += 2 + int.from_bytes(out[at + 2 : at + 4], "big")
    return bytes(out)


def seeds():
    """Small plain files of every kind, PNG without compression."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(60):
        height, width = map(int, rng.integers(1, 41, 2))
        image = (noise, smooth)[i % 2](height, width)
        options = {"quality": (5, 50, 90, 100)[i % 4], "subsampling": i % 3, "optimize": i % 5 == 0}
        if i % 4 == 1:
            options["restart_marker_blocks"] = i % 7 + 1
        files += [encoded(image, "JPEG", **options), encoded(image, "PNG", compress_level=0)]
    return files


def damaged(rng, files):
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2))):
        scan = data.find(b"\xff\xda") + 2
        at = rng.randrange(scan if scan > 1 and rng.random() < 0.5 else 0, len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 4)]
        elif kind == 3:
            data[at:at] = rng.choice((b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xd9", b"\0\0", b"\xff\xfe\0\2"))
        else:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def same_as_pillow(data) -> bool:
    """Whether the file is decoded here; then Pillow must give the same pixels."""
    found = pixels.decode(data)
    if found is not None:
        with images.quiet():
            decoded = images.decode_any(data, 8, "nearest")[1], np.asarray(Image.open(io.BytesIO(data)))
        assert decoded[0]["format"] in ("PNG", "JPEG") and np.array_equal(found, decoded[1])
    return found is not None


@compiled
def test_damaged_files_are_read_as_by_pillow_or_left_to_it():
    rng = random.Random(0)
    files = seeds()
    assert 100 < sum(same_as_pillow(damaged(rng, files)) for _ in range(2000)) < 1500


@compiled
@pytest.mark.parametrize("factor", [1, 2, 5, 20, 100, 255])
def test_coefficients_that_no_picture_has_are_read_as_by_pillow_or_left_to_it(factor):
    read = []
    for quality in (80, 100):
        for image in (noise(30, 40), smooth(30, 40), np.repeat(noise(4, 40), 8, 0), np.full((16, 24, 3), 255, np.uint8)):
            for subsampling in (0, 2):
                data = encoded(image, "JPEG", quality=quality, subsampling=subsampling)
                read.append(same_as_pillow(with_quantisation(data, factor)))
    assert all(read) if factor == 1 else True
    assert not all(read) or factor < 20


@compiled
def test_metadata_that_pillow_refuses_or_that_turns_the_image_is_left_to_it():
    plain = encoded(smooth(), "JPEG")
    entry = b"\x01\x12\0\3\0\0\0\1\0%c\0\0"
    exif = [
        b"Exif\0\0MM\0*\0\0\0\x08\0%c" % len(turns) + b"".join(entry % turn for turn in turns)
        for turns in ((1,), (1, 6), (6, 1))
    ]
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=%s/>"
    assert same_as_pillow(plain)
    assert same_as_pillow(after_start(plain, 0xE1, exif[0]))
    assert same_as_pillow(after_start(plain, 0xE1, xmp % b'"1"'))
    assert same_as_pillow(after_start(plain, 0xE2, b"ICC_PROFILE\0\1\1" + bytes(20)))
    for marker, content in (
        (0xE0, b"JFIF\0\1"),  # too short
        (0xE1, exif[1]),
        (0xE1, exif[2]),
        (0xE1, xmp % b'"6"'),
        (0xE2, b"MPF\0MM\0*"),  # several images
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xED, b"Photoshop 3.0\x008BIM\4\4"),
        (0xEE, b"Adobe"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\0"),  # the colours are RGB
    ):
        assert pixels.decode(after_start(plain, marker, content)) is None


@compiled
def test_sizes_that_the_bytes_cannot_fill_are_refused():
    plain, png = bytearray(encoded(smooth(), "JPEG")), bytearray(encoded(smooth(), "PNG"))
    at = plain.find(b"\xff\xc0")
    plain[at + 5 : at + 9] = (11_000).to_bytes(2, "big") * 2
    png[16:24] = (11_000).to_bytes(4, "big") * 2
    assert pixels.decode(bytes(plain)) is None and pixels.decode(bytes(png)) is None


# Damages the files given, decodes them out of memory of exactly their size, and prints a number of all pixels. Its inflate takes
# stored blocks alone and its checksum is always right, so that damage goes deep.
DRIVER = r"""
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include "pixels.h"
extern "C" {
void cnnjax_decode_resized(long, const uint8_t* const*, const long*, const pixels::Inflater*, long, int, uint8_t*, int32_t (*)[3]);
int cnnjax_decode(const uint8_t*, long, const pixels::Inflater*, int32_t*);
void cnnjax_copy(uint8_t*);
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
  return pixels::big32(static_cast<const uint8_t*>(data) + size);
}};
std::string damaged(const std::vector<std::string>& files) {
  static const std::string words[] = {"\xFF\xD8", "\xFF\xD9", "\xFF\xDA", "\xFF\xC4", "\xFF\xDB", {"\xFF\xDD\0\4\0\1", 6}, {"\xFF\0", 2},
                                      "\xFF\xFF", "\xFF", "\xFF\xD0", "\xFF\xD7", {"\0\0\0\0\0\0", 6}, "\x11", "\x22", "\x7F\xFF"};
  std::string s = files[below(files.size())];
  for (size_t left = 1 + below(3); left && s.size() > 40; left--) {
    const size_t at = below(below(2) ? s.size() : std::min<size_t>(s.size(), 640)), kind = below(9), more = below(30);
    const std::string &other = files[below(files.size())], &word = words[below(15)];
    const size_t from = below(other.size()), frame = s.find("\xFF\xC0");
    if (kind < 2) s[at] = char(engine());
    else if (kind == 2) s[at] ^= 1 << below(8);
    else if (kind == 3) s.erase(at, more);
    else if (kind == 4) s.insert(at, other, from, more);
    else if (kind == 5) s.insert(at, word);
    else if (kind == 6) s.replace(at, word.size(), word);
    else if (kind == 7) s = s.substr(0, at) + other.substr(from);
    else if (frame != s.npos && frame + 12 < s.size()) s[frame + 5 + below(7)] = char(below(40));  // the size
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
    const long size = bytes.size(), side = 1 + below(60);
    const std::unique_ptr<uint8_t[]> copy(new uint8_t[size]);
    std::memcpy(copy.get(), bytes.data(), size);
    const uint8_t* at = copy.get();
    int32_t found[1][3];
    size_t length = 3 * side * side;
    std::unique_ptr<uint8_t[]> out;
    if (below(2)) {
      out.reset(new uint8_t[length]);
      cnnjax_decode_resized(1, &at, &size, &inflater, side, below(2), out.get(), found);
      if (!found[0][0]) continue;
    } else {
      if (!cnnjax_decode(at, size, &inflater, found[0])) continue;
      length = 3L * found[0][0] * found[0][1];
      out.reset(new uint8_t[length]);
      cnnjax_copy(out.get());
    }
    decoded++;
    for (size_t i = 0; i < length; i++) all = 31 * all + out[i];
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
            header = (source / "pixels.h").read_text()
            changed = header.replace("#define WITH_AVX2 1", "").replace(
                '__attribute__((target_clones("avx2", "default")))', ""
            )
            assert len(changed) < len(header) - 60
            (source / "pixels.h").write_text(changed)
        command = [COMPILER, "-std=c++17", "-O1", "-g", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                   "-DROUNDS=60000", '-DCNNJAX_SOURCES=""', f"-I{source}", tmp_path / "driver.cc", *sorted(source.glob("*.cc")),
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
    assert printed[0] == printed[1] and int(printed[0].split()[0]) > 5000
