"""The processors that this process may use: those it may run on, within the quota of its control groups."""

import math
import os
from pathlib import Path, PurePosixPath

GROUPS, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Returns how many threads may work at once without one waiting for a processor: at least 1.

    A part of a processor counts as one, as in Go 1.25 and Java: no part of the quota is left unused.
    """
    quota = cpu_quota()
    return min(cores(), math.ceil(quota)) if quota else cores()


def cores() -> int:
    """Returns how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_text() -> str:
    """Tells of a quota that is less than the processors, as ", of which a quota allows 1.5"; "" where there is none."""
    quota = cpu_quota()
    return f", of which a quota allows {quota:g}" if quota and quota < cores() else ""


def cpu_quota(groups: Path | None = None, root: Path | None = None) -> float:
    """Returns the processors that the control groups of this process allow; 0 where they set no limit.

    Args:
        groups: a line for each hierarchy, as in cgroups(7); None: those of this process.
        root: where the hierarchies are mounted; None: where Linux has them.
    """
    groups, root = groups or GROUPS, root or ROOT
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return 0.0
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":  # version 2, which a machine with both has in a directory of its own
            found += [_of_period(group, "cpu.max") for mount in (root, root / "unified") for group in _upwards(mount, path)]
        elif "cpu" in controllers.split(","):
            found += [
                _of_period(group, "cpu.cfs_quota_us", "cpu.cfs_period_us")
                for mount in (controllers, "cpu")
                for group in _upwards(root / mount, path)
            ]
    return min(filter(None, found), default=0.0)


def _upwards(mount: Path, path: str) -> list[Path]:
    """A group and those around it. In a container the group itself is mounted, and the names of those around it are not there."""
    parts = PurePosixPath(path.lstrip("/"))
    parts = PurePosixPath() if ".." in parts.parts else parts
    return [mount / part for part in (parts, *parts.parents)]


def _of_period(group: Path, *names: str) -> float:
    """Processors of a quota and its period in files of a group; 0 where there is no quota."""
    try:
        quota, period = " ".join((group / name).read_text() for name in names).split()
        return max(int(quota), 0) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return 0.0
