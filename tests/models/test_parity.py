"""Networks against the logits that torchvision and timm computed for the same weights."""

import parity
import pytest

# Batch statistics of a few small images amplify rounding from layer to layer.
LIMITS = {"eval": 1e-5, "train": 3e-4}


@pytest.mark.parametrize(
    ("side", "mode"), [(side, mode) for side, row in parity.ROWS.items() for mode in LIMITS if mode in row]
)
def test_logits_are_those_of_pytorch(side, mode):
    assert parity.difference(side, mode) < LIMITS[mode]


@pytest.mark.parametrize("side", [side for side, row in parity.ROWS.items() if "arrays" in row])
def test_the_arrays_of_a_whole_network_are_those_of_pytorch(side):
    assert parity.arrays(side) == parity.ROWS[side]["arrays"]
