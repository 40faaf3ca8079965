"""Published weights: files that are read without a risk, the Hugging Face Hub, and their arrays under the names of a network here."""

from cnnjax.weights.loading import check, find, load
from cnnjax.weights.matching import Matched
from cnnjax.weights.wanted import wanted

__all__ = ["Matched", "check", "find", "load", "wanted"]
