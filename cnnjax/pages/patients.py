"""How the numbers of an evaluation differ between its groups, such as patients."""

import math

from cnnjax.errors import CheckpointError
from cnnjax.evidence import Evidence
from cnnjax.metrics import score_text, shown
from cnnjax.pages.blocks import Block, Note, Section, Table
from cnnjax.pages.record import Record
from cnnjax.progress import counted

WORST = 10  # groups in the table


def patients_section(record: Record) -> Section:
    """Shows the groups with most errors, how unevenly errors fall on groups, and scores of whole groups.

    Raises:
        CheckpointError: the table of groups is not one that an evaluation writes.
    """
    evidence = record.sureness
    if evidence is None or not evidence.groups_table:
        return Section("", [])
    table = [_row(row) for row in groups_of(record)[:WORST]]
    two = bool(record.judgement.positive)
    name, unit = record.judgement.positive, evidence.unit
    head = (
        unit,
        "images",
        "errors",
        "accuracy",
        f"within this {unit}",
        *((f"{name}, true", f"{name}, called") if two else ()),
    )
    blocks: list[Block] = [Note(line) for line in _sentences(evidence, name)]
    caption = f"The {unit}s with most errors; beside the accuracy Wilson's {100 * evidence.level:g} % interval of the images of one {unit}."
    blocks.append(Table(head, [row[: len(head)] for row in table], caption))
    return Section(f"{unit.capitalize()}s", blocks)


def groups_of(record: Record) -> list[dict[str, str]]:
    """Returns the rows of the table of groups, those with most errors first; [] without groups.

    Raises:
        CheckpointError: the table is not one that an evaluation writes.
    """
    if record.sureness is None or not record.sureness.groups_table:
        return []
    path = record.directory.groups(record.judged)
    header, *rows = [*record.directory.read_rows(path)] or [()]
    try:
        found = [dict(zip(header, row, strict=True)) for row in rows]
        for row in found:
            if not all(
                math.isfinite(float(row[name] or 0)) for name in ("images", "errors", "accuracy", "low", "high", "positives")
            ):
                raise ValueError("a number is not finite")
            if any(name not in row for name in ("group", "called_positive")):
                raise KeyError("group")
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); write it anew with --mode=evidence --workdir={record.directory}"
        ) from None
    return found


def _row(row: dict[str, str]) -> tuple[str, ...]:
    within = f"{float(row['low']):.3f} to {float(row['high']):.3f}"
    counts = f"{int(row['images']):,}", f"{int(row['errors']):,}", f"{float(row['accuracy']):.3f}"
    return row["group"] or "(none)", *counts, within, row["positives"], row["called_positive"]


def _sentences(evidence: Evidence, positive: str) -> list[str]:
    found, unit, groups = evidence.spread, evidence.unit, evidence.groups
    said = [f"Half of the {groups:,} {unit}s have an accuracy of {shown(found['median_accuracy'])} or more, one in ten has "
            f"{shown(found['tenth_accuracy'])} or less."]  # fmt: skip
    if found["errors_in_worst_5"] is not None and groups > WORST:
        said.append(f"5 of {groups:,} {unit}s hold {100 * found['errors_in_worst_5']:.0f} % of the errors, 10 of them "
                    f"{100 * found['errors_in_worst_10']:.0f} %.")  # fmt: skip
    if found["single_class_groups"]:
        said.append(f"{counted(found['single_class_groups'], unit)} with images of one class only.")
    if evidence.group_auc is not None and evidence.group_auc.value is not None:
        said.append(
            f"Whether a {unit} has any {positive} image, by the mean of its five highest logits: AUC {score_text(evidence.group_auc, unit)}."
        )
    if found.get("burden_error") is not None:
        corrected = found["corrected_burden_error"]
        more = (
            ""
            if corrected is None
            else f", and {corrected:.3f} after correction for sensitivity and specificity (Rogan and Gladen)"
        )
        said.append(
            f"The share of a {unit}'s images that is called {positive} is {found['burden_error']:.3f} from the true share in the mean{more}."
        )
    return said
