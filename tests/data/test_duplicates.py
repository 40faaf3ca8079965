"""Copies of pictures: the same hashes as elsewhere, every re-encoded copy found and no other pair, and splits that keep them together."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnjax import config as config_lib
from cnnjax.data import demo, duplicates, images, splits
from cnnjax.data.examples import Example

SHAPE = (32, 32)


def reference_images():
    """Blocks of random colours; the fourth is the first, brighter, and the fifth the second, mirrored."""
    blocks = np.random.default_rng(3).integers(0, 256, (3, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    return np.concatenate([blocks, np.clip(1.1 * blocks[:1], 0, 255).astype(np.uint8), blocks[1:2, :, ::-1]])


def test_hashes_and_correlations_are_those_of_a_reference():
    """From ImageHash 4.3.2, but for its first bit, and from NumPy in float32, both on the same images."""
    found = duplicates.hashes(reference_images())
    assert [f"{value:016x}" for value in found] == [
        "17034b8ace222f7b", "548c0dda1fc1c6d9", "767c195785c841d9", "1f034b8acc222f7b", "01d95c8f4b949bcc"]  # fmt: skip
    assert np.bitwise_count(found[[0, 1]] ^ found[[3, 4]]).tolist() == [2, 30]
    blocks = duplicates._means(reference_images())
    r = duplicates.correlations(blocks, np.array([[0, 3], [0, 1]]), blocks)
    np.testing.assert_allclose(r, [0.9991111755371094, -0.0033405479043722153], rtol=0, atol=1e-6)


def encoded(image, kind, quality, **options):
    out = io.BytesIO()
    image.save(out, kind, quality=quality, **options)
    return out.getvalue()


def test_every_copy_is_found_and_no_pair_among_the_originals():
    """Two hundred drawn cells, and a copy of each: as JPEG of 40 to 75, halved, or 15 % brighter."""
    files = [demo.draw(0, id) for id in demo.ids(0, 200, 20)]
    copies = []
    for i, file in enumerate(files):
        image = Image.open(io.BytesIO(file)).convert("RGB")
        if i % 3 == 0:
            copies.append(encoded(image, "jpeg", 40 + i % 36))
        elif i % 3 == 1:
            copies.append(encoded(image.resize((image.width // 2, image.height // 2)), "png", None))
        else:
            copies.append(encoded(image.point(lambda v: min(v * 1.15, 255)), "png", None))
    pixels = np.stack([images.decode_resized(file, SHAPE, "bilinear")[0] for file in (*files, *copies)])
    found = duplicates.find(pixels, np.arange(400)).same
    assert found.pairs.tolist() == [[i, i + 200] for i in range(200)]
    assert found.hamming.max() <= duplicates.BITS and found.r.min() > 0.995


def test_exact_copies_are_found_at_any_size_and_near_ones_where_pixels_are_enough():
    tiny = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    tiny[3] = tiny[1]
    found = duplicates.find(tiny, np.array([0, 1, 3]))
    assert found.pairs.tolist() == [[1, 3]] and found.kind.tolist() == [0]
    assert "8x8 pixels are too small" in found.note
    large = reference_images().repeat(2, 1).repeat(2, 2)
    found = duplicates.find(large, np.arange(5))
    assert found.pairs.tolist() == [[0, 3]] and duplicates.KINDS[found.kind[0]] == "same picture" and not found.note
    assert "3 images are more than 2" not in found.note
    assert "5 images are more than 2" in duplicates.find(large, np.arange(5), most=2).note
    assert duplicates.find(large, np.arange(5), turns=True).same.pairs.tolist() == [[0, 3], [1, 4]]
    assert len(duplicates.find(large, np.arange(0)).pairs) == 0


def test_bands_find_the_pairs_that_all_comparisons_find(monkeypatch):
    rng = np.random.default_rng(1)
    own = rng.integers(0, 2**63, 1500, np.uint64)
    for i in range(0, 600, 2):  # neighbours up to eight bits apart
        bits = rng.choice(63, rng.integers(0, 9), replace=False)
        own[i + 1] = own[i] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0))
    found = duplicates._like_hashes(own, own)
    i, j = np.nonzero(np.triu(np.bitwise_count(own[:, None] ^ own) <= 6, 1))
    assert found.tolist() == np.stack([i, j], 1).tolist() and len(found) > 150
    monkeypatch.setattr(duplicates, "MOST", 100)
    assert duplicates._like_hashes(own, own) is None


def section(method):
    return config_lib.override(config_lib.default(), {"split.method": method}).split


@pytest.mark.parametrize("method", ["stratified", "grouped", "official"])
def test_the_same_picture_stays_on_one_side_and_shares_stay_true(method):
    examples = [Example(f"{i % 2}/{i:04}", i % 2, f"g{i // 10:02}", "train") for i in range(400)]
    pairs = np.array([[i, i + 201] for i in range(0, 60, 3)])
    plain = splits.assign(examples, "ab", section(method))
    assert splits.assign(examples, "ab", section(method), same=np.arange(400)) == plain
    assigned = splits.assign(examples, "ab", section(method), same=duplicates.sets(pairs, 400))
    assert any(plain[a] != plain[b] for a, b in pairs) and all(assigned[a] == assigned[b] for a, b in pairs)
    assert all(abs(assigned.count(name) - share) < 12 for name, share in (("train", 280), ("val", 60), ("test", 60)))
    if method != "stratified":
        assert splits.shared_groups([e.group for e in examples], assigned) == {}


def test_a_picture_that_is_there_many_times_does_not_empty_the_smaller_splits():
    examples = [Example(f"{i % 2}/{i:04}", i % 2, "", "") for i in range(600)]
    same = np.arange(600) // 12 * 12 + np.arange(600) % 2  # six of each
    assigned = splits.assign(examples, "ab", section("stratified"), same=same)
    assert all(len({assigned[i] for i in np.flatnonzero(same == first)}) == 1 for first in np.unique(same))
    assert abs(assigned.count("test") - 90) <= 12 and abs(assigned.count("val") - 90) <= 12


def test_pictures_that_would_chain_all_groups_to_one_are_not_kept_together():
    pairs = np.array([[i, i + 10] for i in range(90)])
    kinds = np.where(np.arange(90) % 30 == 0, 0, 1)
    copies = duplicates.Copies(pairs, np.zeros(90, np.int64), np.ones(90), kinds)
    groups = [f"g{i // 10}" for i in range(100)]
    same, line = duplicates.together(copies, np.arange(100), groups)
    assert same.tolist() == [i - 10 if i in (10, 40, 70) else i for i in range(100)]
    assert line.startswith("copies of pictures are not all kept on one side of the split, which would join 10 groups to 1")
    same, line = duplicates.together(copies, np.arange(100), ())
    assert same.max() == 9 and line == ""
    same, line = duplicates.together(copies.where(pairs[:, 0] % 10 < 1), np.arange(100), ())
    assert len(np.unique(same)) == 91 and line == ""
    assert duplicates.together(copies.where(kinds > 1), np.arange(100), groups) == (None, "")
