"""Images with labels: sources, frozen splits, decoded pixels, and all of it put together as a `Dataset`."""

from cnnjax.data.bands import upright
from cnnjax.data.clutter import is_other, is_system
from cnnjax.data.columns import mapped
from cnnjax.data.dataset import Dataset, prepare, preprocessing
from cnnjax.data.decoding import decode_all, decode_chunk
from cnnjax.data.duplicates import KINDS as COPY_KINDS
from cnnjax.data.duplicates import QUICK, Copies
from cnnjax.data.duplicates import find as find_copies
from cnnjax.data.duplicates import sets as picture_sets
from cnnjax.data.encoded import SHARDS, Crop, EncodedImages
from cnnjax.data.examples import Source
from cnnjax.data.features import FeatureFiles
from cnnjax.data.folds import Folds, check_divides, prepare_folds, read_folds
from cnnjax.data.images import PIXELS_BY, PNG_SIGNATURE, decode, quiet, thumbnail
from cnnjax.data.inputs import Inputs, find_inputs
from cnnjax.data.limits import ImageError, narrow
from cnnjax.data.listings import DataReference, FileReference, Reference, spelled_out
from cnnjax.data.other_set import NAME as OTHER_SET
from cnnjax.data.other_set import open_other_set, shared_images
from cnnjax.data.pixel_statistics import pixel_statistics
from cnnjax.data.properties import properties
from cnnjax.data.resizes import RESIZES, resize, shown_part
from cnnjax.data.sources import SOURCES, check_path, open_source, unfetched
from cnnjax.data.splits import METHODS as SPLIT_METHODS
from cnnjax.data.splits import NAMES as SPLITS
from cnnjax.data.splits import NONE as NO_ROWS
from cnnjax.data.splits import Rows, by_split, shared_groups
from cnnjax.data.splits import assign as assign_splits
from cnnjax.data.splits import digest as splits_digest
from cnnjax.data.splits import read as read_splits
from cnnjax.data.splits import reason as split_reason
from cnnjax.data.tfds import class_names, is_prepared
from cnnjax.data.whitening import fit as fit_whitening

__all__ = [
    "COPY_KINDS", "NO_ROWS", "OTHER_SET", "PIXELS_BY", "PNG_SIGNATURE", "QUICK", "RESIZES", "SHARDS", "SOURCES", "SPLITS", "SPLIT_METHODS", "Copies", "Crop", "DataReference", "Dataset", "EncodedImages", "FeatureFiles", "FileReference", "Folds", "ImageError", "Inputs", "Reference", "Rows", "Source", "assign_splits", "by_split", "check_divides", "check_path", "class_names", "decode", "decode_all", "decode_chunk", "find_copies", "find_inputs", "fit_whitening", "is_other", "is_prepared", "is_system", "mapped", "narrow", "open_other_set", "open_source", "picture_sets", "pixel_statistics", "prepare", "prepare_folds", "preprocessing", "properties", "quiet", "read_folds", "read_splits", "resize", "shared_groups", "shared_images", "shown_part", "spelled_out", "split_reason", "splits_digest", "thumbnail", "unfetched", "upright",
]  # fmt: skip
