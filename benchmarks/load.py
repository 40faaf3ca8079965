"""Work of other programs while a comparison runs: how many cores they use, and which programs they are. Linux only; else nothing."""

import os
import resource
import time
from pathlib import Path

BUSY = 0.1  # of the cores; more, in use by other programs, makes ratios unreliable


def busy_seconds() -> float:
    """Returns the seconds that all cores together have worked since the start of the machine."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, fields
    )  # neither idle, waiting for a disk nor taken by a hypervisor
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Returns the seconds that this process and the children that have ended have worked."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def processes() -> dict[tuple[int, str], float]:
    """Returns the seconds that each process, (id, name), has worked; without this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        fields = after.split()
        found[int(folder.name), before.partition("(")[2]] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found.pop(next((key for key in found if key[0] == os.getpid()), None), None)
    return found


class Watch:
    """Counts the work of other programs from its construction on. The children of this process are to end before `report`."""

    def __init__(self):
        self.available = Path("/proc/stat").exists()
        self._load = round(os.getloadavg()[0], 2)
        self._start = time.perf_counter()
        if self.available:
            self._busy, self._own, self._processes = busy_seconds(), own_seconds(), processes()

    def report(self) -> dict:
        """Returns what goes to the results file.

        "load_before" and "load_after" are the system's averages of a minute; "other_cores" is how many cores other programs used
        on average, None where the system does not tell; "others" names the busiest of them with their share of a core.
        """
        found = {"load_before": self._load, "load_after": round(os.getloadavg()[0], 2), "other_cores": None, "others": {}}
        if self.available:
            seconds = time.perf_counter() - self._start
            work = busy_seconds() - self._busy - (own_seconds() - self._own)
            shares: dict[str, float] = {}
            for key, value in processes().items():
                shares[key[1]] = shares.get(key[1], 0.0) + (value - self._processes.get(key, 0.0)) / seconds
            names = sorted(shares, key=shares.get, reverse=True)[:3]
            found["other_cores"] = round(max(work / seconds, 0.0), 2)
            found["others"] = {name: round(shares[name], 2) for name in names if shares[name] >= 0.01}
        return found


def problem(report: dict, cores: int) -> str:
    """Returns one line about a machine that other programs keep busy; "" for a quiet one."""
    if (report["other_cores"] or 0.0) <= BUSY * cores:
        return ""
    names = ", ".join(f"{name} {share:g}" for name, share in report["others"].items())
    return f"other programs use {report['other_cores']:g} of {cores} cores{f' ({names})' if names else ''}"


def current(cores: int, seconds: float = 1.0) -> str:
    """Returns `problem` of the next second."""
    watch = Watch()
    time.sleep(seconds)
    return problem(watch.report(), cores)
