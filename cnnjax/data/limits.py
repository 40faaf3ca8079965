"""Limits for files of unknown origin."""

MAX_BYTES = 2**29  # of one encoded file, eight times a photograph of 64 MB
MAX_DICTIONARY = 2**28  # bytes that a decoder of xz or LZMA may take: `xz -9` asks for 65 MiB, and 4 GiB are possible
