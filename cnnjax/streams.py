"""Streams of random numbers: each use of randomness has a number of its own, which is folded into the run's key.

The numbers are part of what makes a run repeatable: changing one changes every run that is trained or continued afterwards.
"""

import enum


class Stream(enum.IntEnum):
    """Folded into `jax.random.key(seed)`."""

    WEIGHTS = 0  # initial weights
    STEPS = 1  # one key per step, folded with its number and split into augmentation and dropout
    VIEWS = 2  # one key per view of a probe, folded with its number and with that of the image


class DataStream(enum.IntEnum):
    """Follows the seed and the number of a batch in the key of NumPy's Philox."""

    CROPS = 0  # windows of encoded images


class AugmentationStream(enum.IntEnum):
    """Folded into the augmentation key of a step."""

    DRAWS = 0  # numbers of all operations, for each image
    POLICY = 1  # operations that RandAugment or TrivialAugment choose
    NOISE = 2  # pixel noise
    MIXING = 3  # mixup and CutMix
    CUSTOM = 4  # the user's own operation
