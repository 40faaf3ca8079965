"""The processors that a process may use, in drawn and in real control groups."""

import math
import os
from pathlib import Path

import pytest
from training_tools import child

from cnnjax import cpus

V2, V1, HYBRID = "0::/pod/own", "5:cpu,cpuacct:/docker/own\n4:memory:/docker/own", "3:cpu:/docker/own\n0::/"
CPU = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.fixture
def quota(tmp_path):
    """quota(lines, {"directory/file": text}) -> processors."""

    def found(lines: str, files: dict[str, str]) -> float:
        groups = tmp_path / "groups"
        groups.write_text(lines + "\n")
        for name, text in files.items():
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).write_text(text)
        return cpus.cpu_quota(groups, tmp_path / "root")

    return found


@pytest.mark.parametrize(
    ("lines", "files", "allowed"),
    [
        (V2, {"pod/own/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"pod/own/cpu.max": "max 100000\n"}, 0),
        (V2, {"pod/own/cpu.max": "max 100000\n", "pod/cpu.max": "400000 50000\n"}, 8),  # of a group around it
        (V2, {"pod/own/cpu.max": "300000 100000\n", "pod/cpu.max": "250000 100000\n"}, 2.5),
        (V2, {"cpu.max": "50000 100000\n"}, 0.5),  # in a container, where its own group is mounted
        ("0::/../../other", {"cpu.max": "200000 100000\n"}, 2),
        (V2, {"pod/own/cpu.max": "a b c\n"}, 0),
        (V2, {"pod/own/cpu.max": "100000 0\n"}, 0),
        (V2, {}, 0),
        (V1, {f"cpu,cpuacct/docker/own/{CPU[0]}": "350000", f"cpu,cpuacct/docker/own/{CPU[1]}": "100000"}, 3.5),
        (V1, {f"cpu/{CPU[0]}": "350000", f"cpu/{CPU[1]}": "100000"}, 3.5),
        (V1, {f"cpu,cpuacct/docker/own/{CPU[0]}": "-1", f"cpu,cpuacct/docker/own/{CPU[1]}": "100000"}, 0),
        (HYBRID, {f"cpu/docker/own/{CPU[0]}": "100000", f"cpu/docker/own/{CPU[1]}": "50000"}, 2),
        (HYBRID, {"unified/cpu.max": "100000 50000"}, 2),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_all_groups_around_a_process(quota, lines, files, allowed):
    assert quota(lines, files) == allowed


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpus.cpu_quota(tmp_path / "none", tmp_path) == 0


@pytest.mark.parametrize(
    ("allowed", "usable", "text"),
    [
        (0, 8, ""),
        (16, 8, ""),
        (8, 8, ""),
        (2.5, 3, ", of which a quota allows 2.5"),
        (0.25, 1, ", of which a quota allows 0.25"),
    ],
)
def test_no_part_of_a_quota_is_left_unused(monkeypatch, allowed, usable, text):
    monkeypatch.setattr(cpus, "cores", lambda: 8)
    monkeypatch.setattr(cpus, "cpu_quota", lambda: allowed)
    assert (cpus.usable_cpus(), cpus.quota_text()) == (usable, text)


WITHIN = """
import os, sys, time
from pathlib import Path
group = Path(sys.argv[1])
(group / "cgroup.procs").write_text(str(os.getpid()))
from cnnjax import cpus
print(cpus.cpu_quota(), cpus.usable_cpus(), cpus.quota_text())
"""


def test_a_real_control_group_limits_a_process():
    """Makes one of version 2 or 1, whichever this machine allows."""
    for root, files in ((Path("/sys/fs/cgroup"), {"cpu.max": "70000 100000"}),
                        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_quota_us": "70000"})):  # fmt: skip
        group = root / f"cnnjax-{os.getpid()}"
        if not (root / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                (group / name).write_text(text)
            done = child(["-c", WITHIN, str(group)])
            assert done.returncode == 0, done.stderr
            few = ", of which a quota allows 0.7"
            assert done.stdout.split(maxsplit=2) == ["0.7", str(math.ceil(0.7)), few + "\n"]
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")
