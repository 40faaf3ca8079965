"""The tables of README.md and TABLES.md, made of the results files.

python -m benchmarks.tables            writes them; --check only says whether they are up to date
"""

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import accelerator_results, results, tasks
from benchmarks.measures import MEASURES, times_ours

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- made by python -m benchmarks.tables -->\n", "<!-- end -->\n"


def machines() -> dict[str, list[dict]]:
    """Returns the results of each folder, newest folder first; "epyc-zen5-2-cores, 2026-11-28" -> results by file name."""
    found = {}
    for folder in sorted(FOLDER.glob("results-*"), reverse=True):
        year, month, day, processor = folder.name.removeprefix("results-").split("-", 3)
        files = sorted(folder.glob("*.json"), key=lambda path: ("growth" in path.name, path.name))
        found[f"{processor}, {year}-{month}-{day}"] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return found


def best_of_others(measure: str, sides: dict[str, list[float]]) -> str:
    """Returns our median, and the best side that is not ours with its median and the ratio."""
    medians = {side: float(np.median(values)) for side, values in sides.items()}
    ours = medians["cnnjax"]
    others = {side: value for side, value in medians.items() if not side.startswith("cnnjax")}
    text = results.number(ours)
    if not others:
        return text
    pick = max if MEASURES[measure][1] else min
    side = pick(others, key=others.get)
    times = times_ours(measure, others[side], ours)
    return f"{text}; {side} {results.number(others[side])}" + (f": {times:.2f} times" if times else "")


def row_name(measure: str, settings: dict) -> str:
    """Returns the task, the measure with its unit, and what is not the task's default."""
    task, parts = tasks.TASKS[settings["task"]], [settings["task"], measure, MEASURES[measure][0]]
    parts += [settings["precision"]] * (settings["precision"] != "float32")
    parts += [f"{settings['size']} px"] * (settings["size"] != task.size)
    return ", ".join(parts + [f"batch {settings['batch']}"] * (settings["batch"] != task.batch))


def summary() -> str:
    """Returns the table of README.md: a row per measure, a column per machine, ours against the best of the others."""
    columns = machines()
    cells: dict[str, dict[str, str]] = {}
    for machine, files in columns.items():
        for found in files:
            for one in found.get("comparisons", [found]):
                if one["settings"]["what"].startswith("growth"):
                    continue
                for measure, sides in one["results"].items():
                    if "cnnjax" in sides and any(not side.startswith("cnnjax") for side in sides):
                        cells.setdefault(row_name(measure, one["settings"]), {})[machine] = best_of_others(measure, sides)
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row.get(machine, '') for machine in columns)} |" for name, row in cells.items()]
    return "\n".join(lines) + "\n"


def everything() -> str:
    """Returns TABLES.md: a table per results file."""
    parts = [
        "# All results\n\nMade by `python -m benchmarks.tables` of the files in `results-*`; README.md says what is measured.\n"
    ]
    for machine, files in machines().items():
        made = [accelerator_results.markdown(x) if "comparisons" in x else results.markdown(x) for x in files]
        parts += [f"## {machine}\n", *made]
    return "\n".join(parts)


def readme() -> str:
    """Returns README.md with its table made anew."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{summary()}{END}{rest.split(END)[1]}"


def main(argv: list[str]) -> int:
    """Writes both files, or says which one is not what the results make of it; returns the exit code."""
    code = 0
    for name, text in (("README.md", readme()), ("TABLES.md", everything())):
        path = FOLDER / name
        if argv != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"error: benchmarks/{name} is not up to date; python -m benchmarks.tables writes it", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
