"""Limits for files of unknown origin."""

MAX_BYTES = 2**29  # of one encoded file, eight times a photograph of 64 MB
