"""Names in archives that were written in the code page of a system, without saying which."""

import zipfile
from collections.abc import Sequence

PAGES = {"cp949": "Korean", "cp932": "Japanese", "gb18030": "Chinese", "big5": "Chinese", "cp1251": "Cyrillic"}
UTF_8 = 0x800  # flag of a member whose name is in UTF-8


def name_of(info: zipfile.ZipInfo, page: str, unknown: list[bytes]) -> str:
    """Returns the name of a member of a zip archive.

    Args:
        info: of the member.
        page: the code page of names that do not say theirs; "": UTF-8 where they are that, else the format's own, CP437.
        unknown: gets up to three names that are in none of these.
    """
    if info.orig_filename.isascii() or info.flag_bits & UTF_8:
        return info.filename
    raw = info.orig_filename.encode("cp437")
    try:
        return raw.decode(page or "utf-8")
    except UnicodeDecodeError:
        if len(unknown) < 3:
            unknown.append(raw)
        return info.filename


def advice(unknown: Sequence[bytes]) -> list[str]:
    """Returns one line about names in an unknown code page, with what each page makes of the first; [] where there are none."""
    if not unknown:
        return []
    read = {}
    for page in PAGES:
        try:
            text = unknown[0].decode(page)
        except UnicodeDecodeError:
            continue
        if all(letter.isascii() or letter.isalnum() for letter in text):  # no signs, as in most wrong readings
            read[page] = text
    if not read:
        return []
    ways = "; ".join(f"--config.data.names={page} reads {text!r} ({PAGES[page]})" for page, text in read.items())
    return [f"names of the archive do not say their code page and are read as {unknown[0].decode('cp437')!r}: {ways}"]
