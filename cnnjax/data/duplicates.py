"""Pictures that a set holds more than once: as a copy, re-encoded, halved or brightened; with `turns`, mirrored or turned.

Copies are searched among the images as the cache holds them. Exact ones have the same SHA-256. Near ones have perceptual hashes (the
signs of low frequencies; Zauner 2010) that differ in few bits, and correlate when 16x16 means of their channels are compared. Measured
on 27,558 cells: 28,801 pairs by the hash alone, none of them the same picture; with the correlation no pair is left.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cnnjax.data.encoded import EncodedImages
from cnnjax.data.resizes import SIDE
from cnnjax.data.resizes import averaged as averaged_image
from cnnjax.progress import counted

BITS = 6  # of 63 in which hashes of one picture differ at most
BANDS = 7  # of 9 bits: of hashes that differ in 6 bits, one band is equal
SAME, ALIKE = 0.995, 0.98  # least correlation of the same picture, and of pictures that are worth a look
CHUNK = 2048  # images, and pairs, that are held as float64 at once
BLOCK = 1024  # hashes of a bucket that are compared with as many others at once
MOST = 2_000_000  # pairs with like hashes, one counted once for each equal band, above which near copies cannot be told
QUICK = 100_000  # images above which a training does not wait for near copies
KINDS = ("exact", "same picture", "look alike")


@dataclasses.dataclass(frozen=True)
class Copies:
    """Pairs of images that show the same, or nearly.

    Attributes:
        pairs: int64 [n, 2], rows of the images, the smaller one first, sorted.
        hamming: int64 [n], bits in which the hashes differ.
        r: float64 [n], correlation; 1 for exact copies.
        kind: int64 [n], positions in `KINDS`.
        note: why near copies were not searched; "".
    """

    pairs: np.ndarray
    hamming: np.ndarray
    r: np.ndarray
    kind: np.ndarray
    note: str = ""

    def where(self, wanted: np.ndarray) -> "Copies":
        """Returns the pairs that are wanted, bool [n]."""
        return dataclasses.replace(
            self, pairs=self.pairs[wanted], hamming=self.hamming[wanted], r=self.r[wanted], kind=self.kind[wanted]
        )

    @property
    def same(self) -> "Copies":
        """The pairs of the same picture: all but those that look alike."""
        return self.where(self.kind < KINDS.index("look alike"))


def find(images: np.ndarray | EncodedImages, rows: np.ndarray, *, most: float = math.inf, turns: bool = False) -> Copies:
    """Returns the pairs of `rows` that show the same picture, or nearly.

    Of several exact copies each is paired with the first; of these, the first alone is compared with other pictures.

    Args:
        images: uint8 [all, height, width, 3].
        rows: int64 [n], sorted.
        most: images above which near copies are not searched.
        turns: compare with the mirrored and turned pictures too.
    """
    if isinstance(images, np.ndarray):
        images = np.asarray(images)  # a memory map takes its time for each image
    first = _exact(images, rows)
    copies = np.flatnonzero(first != np.arange(len(rows)))
    pairs, hamming, r = np.stack([first[copies], copies], 1), np.zeros(len(copies), np.int64), np.ones(len(copies))
    kind, note = np.zeros(len(copies), np.int64), _hindrance(images.shape, len(rows), most)
    if not note and len(rows):
        alone = np.flatnonzero(first == np.arange(len(rows)))
        small = averaged(images, rows[alone])
        found = _near(small, turns)
        if found is None:
            note = "the pictures look too much alike to tell near copies: exact ones alone are searched"
        else:
            own, bits, like = found
            pairs = np.concatenate([pairs, alone[own]])
            hamming, r = np.concatenate([hamming, bits]), np.concatenate([r, like])
            kind = np.concatenate([kind, np.where(like >= SAME, 1, 2)])
    order = np.lexsort(pairs.T[::-1])
    return Copies(rows[pairs[order]], hamming[order], r[order], kind[order], note)


def _hindrance(shape: tuple[int, ...], count: int, most: float) -> str:
    """Returns why near copies are not searched among images of a shape; ""."""
    if min(shape[1:3]) < SIDE:
        return f"images of {shape[1]}x{shape[2]} pixels are too small to tell near copies, which takes {SIDE}: exact ones alone are searched"
    if count > most:
        return (
            f"{count:,} images are more than {most:,}: exact copies alone are searched; --mode=audit searches near ones too"
        )
    return ""


def _exact(images: np.ndarray | EncodedImages, rows: np.ndarray) -> np.ndarray:
    """Returns for each of `rows` the position of the first with the same pixels, int64 [n].

    The middle row of an image, one page to read, tells most of them apart; the others are read whole. Encoded images have digests.
    """
    first = np.arange(len(rows))
    if isinstance(images, EncodedImages):
        _, at, which = np.unique(images.digests[rows], axis=0, return_index=True, return_inverse=True)
        return at[which]
    middle = images.shape[1] // 2
    parts = [hashlib.sha256(images[row, middle]).digest() for row in rows]
    known: dict[bytes, list[int]] = {}
    for i, part in enumerate(parts):
        known.setdefault(part, []).append(i)
    for own in known.values():
        if len(own) > 1:
            seen: dict[bytes, int] = {}
            for i in own:
                first[i] = seen.setdefault(hashlib.sha256(images[rows[i]]).digest(), i)
    return first


def averaged(images: np.ndarray | EncodedImages, rows: np.ndarray) -> np.ndarray:
    """Returns images averaged over areas, uint8 [n, 32, 32, 3]."""
    if isinstance(images, EncodedImages):
        return images.small[rows]
    if images.shape[1:3] == (SIDE, SIDE):
        return images[rows]
    small = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    for i, row in enumerate(rows):
        small[i] = averaged_image(images[row])
    return small


def hashes(small: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash of uint8 [n, 32, 32, 3]: uint64 [n].

    The 8x8 lowest frequencies of the orthonormal DCT-II of the luma without the mean: a bit is set where one is above their median.
    """
    place, frequency = np.arange(SIDE), np.arange(8)[:, None]
    cosines = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE)) * np.sqrt(np.where(frequency, 2, 1) / SIDE)
    weights = np.uint64(1) << np.arange(62, -1, -1, dtype=np.uint64)
    out = np.empty(len(small), np.uint64)
    for at in range(0, len(small), CHUNK):
        luma = small[at : at + CHUNK] @ np.array([0.299, 0.587, 0.114])
        low = (cosines @ luma @ cosines.T).reshape(-1, 64)[:, 1:]
        out[at : at + CHUNK] = ((low > np.median(low, 1, keepdims=True)) * weights).sum(1, dtype=np.uint64)
    return out


def _near(small: np.ndarray, turns: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns pairs, bits and correlations of near copies; None where too many hashes are alike."""
    own, blocks, found = hashes(small), _means(small), []
    for turn in range(8 if turns else 1):
        other = np.rot90(small[:, :, ::-1] if turn >= 4 else small, turn % 4, (1, 2))
        theirs = own if turn == 0 else hashes(other)
        pairs = _like_hashes(own, theirs)
        if pairs is None:
            return None
        r = correlations(blocks, pairs, blocks if turn == 0 else _means(other))
        bits = np.bitwise_count(own[pairs[:, 0]] ^ theirs[pairs[:, 1]]).astype(np.int64)
        found.append((np.sort(pairs, 1), bits, r))
    pairs, bits, r = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.lexsort((-r, pairs[:, 1], pairs[:, 0]))  # a pair once, as the turn that fits best
    best = best[r[best] >= ALIKE]
    _, once = np.unique(pairs[best], axis=0, return_index=True)
    return pairs[best[once]], bits[best[once]], r[best[once]]


def _like_hashes(own: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Returns pairs i < j with `own[i]` and `other[j]`, or the other way round, at most `BITS` apart: int64 [n, 2]; None: too many."""
    count, codes, total = len(own), [np.empty(0, np.int64)], 0
    for one, two in _buckets(own, other):
        for a in range(0, len(one), BLOCK):
            for b in range(0, len(two), BLOCK):
                left, right = one[a : a + BLOCK], two[b : b + BLOCK]
                i, j = np.nonzero(np.bitwise_count(own[left, None] ^ other[right]) <= BITS)
                i, j = left[i], right[j]
                keep = i < j if own is other else i != j
                codes.append(i[keep] * count + j[keep])
                total += len(codes[-1])
                if total > MOST:
                    return None
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), count), 1)


def _buckets(own: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields positions with an equal band of bits; all at once where most bands are equal."""
    shifts = [np.uint64(9 * band) for band in range(BANDS)]
    bands = [[(bits >> shift & np.uint64(511)).astype(np.int64) for bits in (own, other)] for shift in shifts]
    work = sum(float(np.bincount(a, minlength=512) @ np.bincount(b, minlength=512)) for a, b in bands)
    if work >= float(len(own)) * len(other) or len(own) < BLOCK:
        yield np.arange(len(own)), np.arange(len(other))
        return
    for a, b in bands:
        one, two = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
        starts, ends = np.searchsorted(a[one], np.arange(513)), np.searchsorted(b[two], np.arange(513))
        for value in range(512):
            yield one[starts[value] : starts[value + 1]], two[ends[value] : ends[value + 1]]


def _means(small: np.ndarray) -> np.ndarray:
    """Returns sums of 2x2 pixels, uint16 [n, 3, 256]."""
    tall = small[:, ::2].astype(np.uint16) + small[:, 1::2]
    sums = tall[:, :, ::2] + tall[:, :, 1::2]
    return np.ascontiguousarray(sums.reshape(-1, 256, 3).swapaxes(1, 2))


def correlations(own: np.ndarray, pairs: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the correlation of pairs of pictures, each channel centred, float64 [n]; 0 where one has a single colour.

    All sums are whole numbers, so that every machine finds the same pairs.
    """
    out = np.zeros(len(pairs))
    for at in range(0, len(pairs), CHUNK):
        a, b = (side[pairs[at : at + CHUNK, k]].astype(np.float64) for k, side in enumerate((own, other)))
        ab, aa, bb = (np.einsum("npc,npc->n", x, y) - np.einsum("np,np->n", x.sum(2), y.sum(2)) / 256
                      for x, y in ((a, b), (a, a), (b, b)))  # fmt: skip
        spread = np.sqrt(aa * bb)
        out[at : at + CHUNK] = np.divide(ab, spread, out=np.zeros(len(ab)), where=spread > 0)
    return out


def sets(pairs: np.ndarray, count: int) -> np.ndarray:
    """Returns for each of `count` the smallest position that pairs, int64 [n, 2], connect it with: int64 [count]."""
    first = np.arange(count)
    if len(pairs):
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        graph = coo_array((np.ones(len(pairs), np.int8), tuple(pairs.T)), (count, count))
        _, member = connected_components(graph, directed=False)
        _, smallest = np.unique(member, return_index=True)
        first = smallest[member]
    return first


def joined_groups(groups: Sequence[str], same: np.ndarray) -> list[str]:
    """Returns the group of each image where groups with the same picture are one, by the name that is sorted first.

    Args:
        groups: one text per image.
        same: int64 [images], from `sets`.
    """
    names, own = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    first = sets(np.stack([own, own[same]], 1), len(names))
    return [str(name) for name in names[first[own]]]


def together(copies: Copies, rows: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """Returns `sets` of `rows` for a split, None where there are none, and a line where they are fewer than was found.

    Pictures that look alike by nature would chain groups, or most images, to one: then exact copies alone are kept together, or none.

    Args:
        copies: that were found among `rows`.
        rows: int64 [n], sorted.
        groups: of `rows`, which are not to be divided; () where the split does not look at groups.
    """
    line = ""
    for kept in (copies.same, copies.where(copies.kind == 0)):
        if not len(kept.pairs):
            break
        same = sets(np.searchsorted(rows, kept.pairs), len(rows))
        before, after = len(set(groups)), len(set(joined_groups(groups, same))) if len(groups) else 0
        if 2 * after >= before and np.bincount(same).max() <= max(len(rows) / 10, 2):
            return same, line
        many = (
            f"join {counted(before, 'group')} to {after:,}"
            if 2 * after < before
            else "put a tenth of the images on one side"
        )
        line = f"copies of pictures are not all kept on one side of the split, which would {many}: the pictures look too much alike"
    return None, line


def kept_together(copies: Copies, splits: Mapping[str, np.ndarray]) -> str:
    """Returns a line on the pairs of the same picture that a split has on one side; "" without any.

    Args:
        copies: that were found.
        splits: split name -> int64 rows.
    """
    pairs = copies.same.pairs
    kept = sum(int(np.isin(pairs, rows).all(1).sum()) for rows in splits.values())
    if not kept:
        return ""
    return f"{counted(kept, 'pair')} of the same picture {'is' if kept == 1 else 'are'} kept on one side (split.keep_duplicates_together)"
