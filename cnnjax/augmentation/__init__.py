"""Augmentation of a batch on the device: operations on each image, and images mixed with each other."""

from cnnjax.augmentation.geometry import FILLS, INTERPOLATIONS
from cnnjax.augmentation.mixing import Targets, mix, of_partners
from cnnjax.augmentation.operations import Custom, apply, augment, extremes

__all__ = ["FILLS", "INTERPOLATIONS", "Custom", "Targets", "apply", "augment", "extremes", "mix", "of_partners"]
