"""Subgroups of images and their scores, as a section of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnnjax.pages.blocks import Block, Note, Section, Table

NAMES = {"longest_side": "longest side", "bytes_per_pixel": "bytes per pixel"}
KINDS = ("accuracy", "sensitivity", "specificity")
SAID = 5  # subgroups that are told in words


def subgroups_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Returns the section of a page from rows of `metrics.subgroups`; empty without a subgroup."""
    if len(rows) < 2:
        return Section("Subgroups", [])
    whole = rows[0]
    kinds = [kind for kind in KINDS if kind in whole]
    apart = sorted((row for row in rows[1:] if "accuracy" in row["differs"]), key=lambda row: row["accuracy"]["value"])
    blocks: list[Block] = [_note(row, whole) for row in apart[:SAID]]
    given = sum(row["accuracy"]["low"] is not None for row in rows[1:])
    told = (
        f"{len(apart)} of {given} intervals exclude the accuracy of all images" if given else "too few groups for intervals"
    )
    by_chance = f"; about {max(round(given / 20), 1)} would by chance" if apart else ""
    blocks.append(
        Note(f"{told[0].upper()}{told[1:]}{by_chance}. Numbers are divided at their 10, 25, 50, 75 and 90 % quantiles.")
    )
    header = ("by", "value", "", "images", "groups that count", *kinds)
    columns = [row["column"] for row in rows]
    named = [_name(name) if name != before else "" for name, before in zip(columns, ["", *columns], strict=False)]
    table = [(name, row["value"], "differs" if row["differs"] else "", f"{row['count']:,}", f"{row['effective']:,.1f}",
              *(_score(row[kind]) for kind in kinds)) for name, row in zip(named, rows, strict=True)]  # fmt: skip
    caption = ("Longest side of the file in pixels, brightness and sharpness of the network's input in levels of 255. A subgroup differs where "
               "the interval of one of its scores excludes that of all images.")  # fmt: skip
    blocks.append(Table(header, table, caption, left=3))
    return Section("Subgroups", blocks)


def lower(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the subgroups of `metrics.subgroups` whose accuracy is surely lower in words, the lowest first."""
    if not rows:
        return []
    whole = rows[0]["accuracy"]["value"]
    apart = [row for row in rows[1:] if "accuracy" in row["differs"] and row["accuracy"]["value"] < whole]
    return [_note(row, rows[0]).text for row in sorted(apart, key=lambda row: row["accuracy"]["value"])]


def _note(row: Mapping[str, Any], whole: Mapping[str, Any]) -> Note:
    name, score = _name(row["column"]), row["accuracy"]
    lower = score["value"] < whole["accuracy"]["value"]
    return Note(
        f"{name[0].upper()}{name[1:]} {row['value']}: accuracy {_score(score)}, of all images {whole['accuracy']['value']:.3f}.",
        warning=lower,
    )


def _name(column: str) -> str:
    return NAMES.get(column, column)


def _score(score: Mapping[str, Any]) -> str:
    """Returns a score with its interval, or with the bound that there is."""
    if score["value"] is None:
        return "-"
    low, high = score["low"], score["high"]
    if low is None and high is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({0 if low is None else low:.3f} to {1 if high is None else high:.3f})"
