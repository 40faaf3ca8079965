"""The libraries of the kernels: found or not, without errors of memory, right on other machines."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from training_tools import child

from cnnjax.kernels import blocks as kernels
from cnnjax.kernels import library

if not kernels.available():
    pytest.skip(kernels.why_not(), allow_module_level=True)

SETS = library.instruction_sets()
SOURCE = Path(kernels.__file__).parent
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
WIDE = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
FLAGS = {"sse2": (), "avx2": ("-mavx2", "-mfma"), "avx512": ("-mfma", *WIDE), "avx512bf16": ("-mfma", *WIDE, "-mavx512bf16"),
         "neon": ()}  # fmt: skip


def test_nothing_is_loaded_before_the_first_question():
    code = ("from cnnjax import kernels\nfrom cnnjax.kernels import library\nfrom jax._src import xla_bridge\n"
            "print(library.register.cache_info().currsize, library.instruction_sets.cache_info().currsize)\n"
            "print(kernels.available(), xla_bridge.backends_are_initialized())")  # fmt: skip
    done = child(["-c", code])
    assert done.stdout.split() == ["0", "0", "True", "False"], done.stderr


@pytest.fixture
def forgotten(monkeypatch):
    """Forgets what is known of the machine, before and after."""
    for function in (library._load, library.instruction_sets):
        function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for function in (library._load, library.instruction_sets):
        function.cache_clear()


def test_without_libraries_one_line_says_so(forgotten, tmp_path):
    forgotten.setattr(library, "_path", lambda name: tmp_path / f"{name}.so")
    assert not kernels.available() and kernels.instruction_set() == ""
    assert kernels.why_not().startswith("the kernels are not compiled: ") and "\n" not in kernels.why_not()
    arrays = [np.zeros(shape, np.float32) for shape in ((3, 6, 7, 16), (3, 3, 16, 16), (16,))]
    with pytest.raises(ValueError, match=r"conv_block: the kernels are not compiled.*ask kernels.available\(\) first"):
        kernels.conv_block(*arrays, padding=1, pool_stride=1)


def test_a_file_that_is_no_library_and_another_machine_are_named(forgotten, tmp_path):
    for name in SETS:
        (tmp_path / f"{name}.so").write_text("not a library")
    forgotten.setattr(library, "_path", lambda name: tmp_path / f"{name}.so")
    assert not kernels.available() and ".so" in kernels.why_not()
    library._load.cache_clear()
    library.instruction_sets.cache_clear()
    forgotten.setattr(library.platform, "machine", lambda: "riscv64")
    assert kernels.why_not() == "there are kernels for x86-64 and aarch64, not for riscv64"


def test_libraries_that_are_older_than_their_sources_are_not_used(forgotten, tmp_path):
    for path in SOURCE.iterdir():
        if path.suffix in (".so", ".h", ".cc"):
            shutil.copy(path, tmp_path)
    (tmp_path / "conv.h").write_text("// changed")
    forgotten.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert kernels.why_not() == "the kernels are older than their sources: install cnnjax again"


def compiled(compiler: str, place: Path, *flags: str) -> subprocess.CompletedProcess:
    """Compiles the driver beside this file, with the kernels, to `place / "driver"`."""
    parts = (path for path in sorted(SOURCE.glob("*.cc")) if '"calls.h"' not in path.read_text())
    driver = Path(__file__).parent / "kernels_driver.cc"
    command = [compiler, "-std=c++17", "-w", "-pthread", *flags, f"-I{SOURCE}", driver, *parts, "-o", place / "driver"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("name", "sanitizer"),
    [(SETS[0], "address,undefined"), (SETS[0], "thread")],
)
def test_sanitizers_find_nothing(tmp_path, name, sanitizer):
    built = compiled(COMPILER, tmp_path, "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *FLAGS[name])
    if "cannot find" in built.stderr:
        pytest.skip(f"the compiler has no sanitizer: {built.stderr.splitlines()[0]}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "driver", "fuzz", "30"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (CROSS_COMPILER and EMULATOR), reason="no g++-aarch64-linux-gnu or no qemu-user")
def test_results_on_arm_are_right(tmp_path):
    built = compiled(CROSS_COMPILER, tmp_path, "-O2", "-static")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([EMULATOR, tmp_path / "driver", "compare"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(", 0 wrong\n") and not done.stdout.startswith("0 "), done.stdout
