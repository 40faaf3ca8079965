"""Results of `benchmarks.accelerator` as a file and as tables."""

import re
from pathlib import Path

import numpy as np

from benchmarks import results

GOALS = {"malaria": 400_000, "resnet50": 3_000}  # images/s of cnnjax on one H200, and no fewer than the best other side


def write(found: dict, path: str) -> str:
    """Writes the results; returns the file, which in a folder is results-DATE-DEVICE/accelerator.json. "" writes none."""
    if Path(path).is_dir() and path:
        device = re.sub(r"[^a-z0-9]+", "-", found["device"].split(",")[0].removeprefix("1 x ").lower()).strip("-")
        folder = Path(path) / f"results-{found['machine']['date'][:10]}-{device or 'unknown'}"
        folder.mkdir(exist_ok=True)
        path = str(folder / "accelerator.json")
    if path:
        results.write(found, path)
    return path


def goals(found: dict) -> list[str]:
    """Returns a line for each goal: what was measured, and what is asked for."""
    lines = []
    for task, wanted in GOALS.items():
        speeds = [one["results"]["training"] for one in found["comparisons"]
                  if one["settings"]["task"] == task and "cnnjax" in one["results"].get("training", {})]  # fmt: skip
        medians = [{side: float(np.median(values)) for side, values in sides.items()} for sides in speeds]
        if not medians:
            lines.append(f"{task}: at least {wanted:,} images/s, and 1.0 times the best other side: not measured")
            continue
        best = max(medians, key=lambda sides: sides["cnnjax"])
        ours, others = best.pop("cnnjax"), max(best.values(), default=None)
        ratio = f"{ours / others:.2f} times the best other side" if others else "no other side"
        met = "met" if ours >= wanted and others and ours >= others else "not met"
        lines.append(f"{task}: {ours:,.0f} images/s, {ratio}; at least {wanted:,} and 1.0 times: {met}")
    return lines


def markdown(found: dict) -> str:
    """Returns all that was found as Markdown."""
    machine = found["machine"]
    lines = [f"**{found['device'] or 'no device answered'}**", "",
             f"accelerator: {machine['accelerator']}; {machine['cores']} cores of {machine['processor']}; commit "
             f"{machine['commit'] or 'not recorded'}, {machine['date']}", ""]  # fmt: skip
    if found["tiny"]:
        lines += ["Tiny sizes: nothing here is a measurement.", ""]
    if found["exactness"]:
        lines += ["| losses beside those of the CPU | steps | largest difference | allowed |", "|---|---|---|---|"]
        lines += [f"| {row['task']}, {row['precision']}, images from the {row['feed']} | {row['steps']} | {row['difference']:.2g} | "
                  f"{row['allowed']:g} |" for row in found["exactness"]]  # fmt: skip
    for name, run in found["resume"].items():
        same = "the same" if run["same losses"] and run["same weights"] else "not the same"
        spent = run["spent"]
        share = spent["input"] / max(spent["input"] + spent["step"], 1e-9)
        lines += ["", f"Stopped after {run['stopped']} of {run['steps']} steps and continued, {name}: {same}, bit for bit. "
                  f"With images on the device the program waits for input {share:.1%} of input and steps together."]  # fmt: skip
    for one in found["comparisons"]:
        lines += ["", results.markdown(one).rstrip()]
    if not found["tiny"]:
        lines += ["", "Goals on one H200:", "", *(f"- {line}" for line in goals(found))]
    for title, some in (
        ("Not as it must be", found["failed"]),
        ("Skipped", [f"{k}: {v}" for k, v in found["skipped"].items()]),
    ):
        if some:
            lines += ["", f"{title}:", "", *(f"- {line}" for line in some)]
    return "\n".join(lines) + "\n"
