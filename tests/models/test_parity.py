"""Networks against the logits that torchvision and timm computed for the same weights."""

import re

import parity
import pytest

# Batch statistics of a few small images amplify rounding from layer to layer.
LIMITS = {"eval": 1e-5, "train": 3e-4}
# Sides and modes whose layers quicker ones have, too.
SLOW = r"efficientnet_b0|mobilenetv3_large_100|tf_efficientnet|(efficientnet|mobilenet).* train"


def cases(*modes):
    """Each side with those of the modes that its row has."""
    found = [(side, mode) for side, row in parity.ROWS.items() for mode in modes if mode in row]
    return [pytest.param(*case, marks=[pytest.mark.slow] if re.match(SLOW, " ".join(case)) else []) for case in found]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "mode"), cases(*LIMITS))
def test_logits_are_those_of_pytorch(side, mode):
    assert parity.difference(side, mode) < LIMITS[mode]
