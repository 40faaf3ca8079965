"""Networks against the logits that torchvision and timm computed for the same weights."""

import parity
import pytest

# Batch statistics of a few small images amplify rounding from layer to layer.
LIMITS = {"eval": 1e-5, "train": 3e-4}


@pytest.mark.parametrize("mode", LIMITS)
@pytest.mark.parametrize("side", parity.ROWS)
def test_logits_are_those_of_pytorch(side, mode):
    assert parity.difference(side, mode) < LIMITS[mode]
