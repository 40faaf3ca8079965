"""Results of a comparison: the machine, tables, a JSON file and a picture.

python -m benchmarks.results FILE.json...    prints Markdown tables
"""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.measures import MEASURES, times_ours

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Returns the commit that is measured, with "+" where files differ from it; "" outside of a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        ).stdout
    except OSError:
        return ""
    return f"{head}+" if head and changed.strip() else head


def machine(threads: int) -> dict:
    """Returns the commit, and processor, cores, accelerator and system of this machine."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        accelerator = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip()
    except OSError:
        accelerator = ""
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "accelerator": accelerator or "none",
        "huge_pages": huge.read_text().strip() if huge.exists() else "",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def rows(found: dict) -> list[tuple[str, str, str, str, str, str]]:
    """Returns (measure with unit, side, median, quartiles, times ours, peak memory) of every number, as text."""
    table = []
    for measure, sides in found["results"].items():
        unit = MEASURES[measure][0]
        first = next(iter(sides))
        ours = np.median(sides[first]) if first.startswith("cnnjax") else None
        for side, values in sides.items():
            low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
            times = None if ours is None else times_ours(measure, median, ours)
            ratio = "" if times is None else f"{times:.2f}"
            memory = found["memory"].get(side, {"process": 0, "allocated": 0, "device": 0})
            peak = f"{memory['process'] / 1e6:,.0f}, {memory['allocated'] / 1e6:,.0f}"
            peak += f", device {memory['device'] / 1e6:,.0f}" if memory["device"] else ""
            table.append((f"{measure}, {unit}", side, number(median), f"{number(low)}-{number(high)}", ratio, peak))
    return table


def number(value: float) -> str:
    """Returns a number with three digits, or whole with commas."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


HEADER = ("measure", "side", "median", "quartiles", "cnnjax is x times as fast", "peak memory, of it allocated, MB")


def text(found: dict) -> str:
    """Returns the table for a terminal."""
    settings, about = found["settings"], found["about"]
    lines = [f"{settings['task']}, {settings['size']} px, batch {settings['batch']}, {settings['precision']}, "
             f"{settings['threads']} threads on {found['machine']['processor']}, {next(iter(about.values()))['device']}"]  # fmt: skip
    if settings.get("images"):
        lines.append(f"{settings['images']:,} {'drawn' if settings['drawn'] else 'real'} images")
    table = [HEADER, *rows(found)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    lines += ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def load_text(machine: dict) -> str:
    """Returns one phrase about other work on the machine; results of earlier versions know its load alone."""
    if machine.get("other_cores") is None:
        return f"load {machine['load_before']} before"
    names = ", ".join(machine["others"])
    return f"{machine['other_cores']:g} cores used by others{f' ({names})' if names else ''}"


def markdown(found: dict) -> str:
    """Returns the table as Markdown, with versions, commit, date and load above it."""
    first, *rest = text(found).split("\nmeasure")[0].splitlines()
    versions = {name: v for side in found["about"].values() for name, v in side["versions"].items()}
    rest.append(", ".join(f"{name} {v}" for name, v in sorted(versions.items())))
    made = found["machine"].get("commit") or "not recorded"
    rest.append(f"commit {made}, {found['machine']['date']}, {load_text(found['machine'])}")
    rest += [f"left out: {side} ({why})" for side, why in found["left_out"].items()]
    lines = [
        f"**{first}**",
        "",
        *(f"{line}  " for line in rest),
        "",
        f"| {' | '.join(HEADER)} |",
        "|---" * len(HEADER) + "|",
    ]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows(found)]) + "\n"


def write(found: dict, path: str) -> None:
    """Writes the whole as JSON, under its name only when it is whole."""
    temporary = Path(f"{path}.part")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def plot(found: dict, path: str) -> None:
    """Draws a panel of bars per measure: medians, and lines from the first to the third quartile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    count = len(found["results"])
    figure, axes = plt.subplots(1, count, figsize=(5.2 * count, 0.8 + 0.45 * max(map(len, found["results"].values()))),
                                squeeze=False, layout="constrained")  # fmt: skip
    for axis, (measure, sides) in zip(axes[0], found["results"].items(), strict=True):
        unit, more = MEASURES[measure]
        low, median, high = np.quantile(list(sides.values()), (0.25, 0.5, 0.75), axis=1)
        colours = ["#c2410c" if side.startswith("cnnjax") else "#64748b" for side in sides]
        axis.barh(list(sides), median, xerr=(median - low, high - median), color=colours, capsize=3)
        axis.bar_label(axis.containers[-1], [f" {number(value)}" for value in median])
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.set_title(f"{found['settings']['task']}: {measure}", fontsize=10)
        axis.set_xlabel(unit if more is None else f"{unit}, {'more' if more else 'less'} is better")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    print("\n".join(markdown(json.loads(Path(path).read_text(encoding="utf-8"))) for path in sys.argv[1:]))
