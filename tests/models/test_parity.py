"""Networks against the logits that torchvision and timm computed for the same weights."""

import parity
import pytest

# Batch statistics of a few small images amplify rounding from layer to layer.
LIMITS = {"eval": 1e-5, "train": 3e-4}
# Sides that share a family's layers with a quick one, and modes that share a network.
SLOW = ("efficientnet_b0/", "mobilenetv3_large_100/", "tf_efficientnetv2_s/")
SLOW_MODES = (("efficientnetv2_s/torchvision", "train"), ("mobilenetv3_large/torchvision", "train"))


def cases(modes, slow=()):
    """The sides whose rows have one of the modes, each with it."""
    for side, row in parity.ROWS.items():
        for mode in modes:
            if mode in row:
                marks = [pytest.mark.slow] if side.startswith(SLOW) or (side, mode) in slow else []
                yield pytest.param(side, mode, marks=marks)


@pytest.mark.parametrize(("side", "mode"), list(cases(LIMITS, SLOW_MODES)))
def test_logits_are_those_of_pytorch(side, mode):
    assert parity.difference(side, mode) < LIMITS[mode]


@pytest.mark.parametrize(("side", "what"), list(cases(["arrays"])))
def test_the_arrays_of_a_whole_network_are_those_of_pytorch(side, what):
    assert parity.arrays(side) == parity.ROWS[side][what]
