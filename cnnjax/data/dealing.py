"""Whole groups dealt into parts, each with its share of every class.

All orders come from SHA-256 of the seed and a name.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cnnjax.data.columns import table
from cnnjax.data.duplicates import joined_groups
from cnnjax.data.examples import Example
from cnnjax.errors import DataError
from cnnjax.progress import counted


def order_of(seed: int | str, names: Iterable[str]) -> np.ndarray:
    """Returns int64 [n], the positions of names in the seed's order."""
    (digests,) = table(((hashlib.sha256(f"{seed}/{name}".encode()).digest(),) for name in names), "binary")
    return digests.order()


def whole_groups(
    examples: Sequence[Example], fractions: Sequence[float], seed: int | str, same: np.ndarray | None = None
) -> np.ndarray:
    """Deals whole groups in the seed's order, then moves and swaps them while that brings every part nearer to its share of every class.

    Args:
        examples: each with a group.
        fractions: of the images, for each part.
        seed: of the order.
        same: int64 [n], the first example with the same picture: their groups are dealt as one.

    Returns:
        int [n], the part of each example.

    Raises:
        DataError: an example without a group, or fewer groups than parts.
    """
    without = [example.id for example in examples if not example.group]
    if without:
        raise DataError(f"no group for {counted(len(without), 'image')}, such as {without[0]!r}; set --config.data.group to a "
                        "regular expression that matches every name, or use --config.split.method=stratified")  # fmt: skip
    if same is not None:
        together = joined_groups([example.group for example in examples], same)
        examples = [example._replace(group=group) for example, group in zip(examples, together, strict=True)]
    groups = sorted({example.group for example in examples})
    groups = [groups[i] for i in order_of(seed, groups)]
    if len(groups) < len(fractions):
        raise DataError(f"{counted(len(groups), 'group')} ({', '.join(sorted(groups))}) cannot be kept apart in {len(fractions)} splits; "
                        "check --config.data.group or use --config.split.method=stratified")  # fmt: skip
    row = {group: i for i, group in enumerate(groups)}
    counts = np.zeros((len(groups), max(example.label for example in examples) + 1))  # [group, class]
    for example in examples:
        counts[row[example.group], example.label] += 1
    shares = np.array(fractions)
    target = shares[:, None] * counts.sum(0)  # [part, class]
    seen = (counts.sum(1).cumsum() - counts.sum(1) / 2) / counts.sum()
    side = np.searchsorted(shares.cumsum()[:-1], seen, side="right")
    for empty in set(range(len(shares))) - set(side):  # few and large groups can jump over a share
        crowded = side == np.bincount(side).argmax()
        side[np.where(crowded, counts.sum(1), np.inf).argmin()] = empty
    side = _balance(side, counts, target)
    return side[[row[example.group] for example in examples]]


def _balance(side: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Steepest descent on the squared relative distance to `target` [split, class] by moving one group or swapping
    two. `side` [group] is each group's split, `counts` [group, class]."""
    everyone = np.arange(len(side))
    side = side.copy()
    swaps = len(side) <= 512  # beyond that, groups are so many that moves alone reach the shares
    have = np.stack([counts[side == s].sum(0) for s in range(len(target))])

    def cost(totals, s):
        return (((totals - target[s]) / np.maximum(target[s], 1)) ** 2).sum(-1)

    while True:
        now = cost(have, np.arange(len(target)))
        best, change = -1e-9, None
        for a in range(len(target)):
            for b in range(len(target)):
                here = everyone[side == a]
                if a == b or len(here) < 2:
                    continue
                move = cost(have[a] - counts[here], a) + cost(have[b] + counts[here], b) - now[a] - now[b]
                if move.min() < best:
                    best, change = move.min(), ((here[move.argmin()], b),)
                there = everyone[side == b]
                if swaps and a < b and len(there):
                    delta = counts[there][None] - counts[here][:, None]
                    swap = cost(have[a] + delta, a) + cost(have[b] - delta, b) - now[a] - now[b]
                    if swap.min() < best:
                        i, j = np.unravel_index(swap.argmin(), swap.shape)
                        best, change = swap.min(), ((here[i], b), (there[j], a))
        if change is None:
            return side
        for group, to in change:
            have[side[group]] -= counts[group]
            have[to] += counts[group]
            side[group] = to
