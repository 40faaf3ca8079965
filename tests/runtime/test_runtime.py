"""How a process sets up JAX for a CPU."""

import json
import os
import platform
import subprocess
import sys

import jax
import pytest
from training_tools import child

from cnnjax import runtime
from cnnjax.kernels import blocks as kernels

CORES = len(os.sched_getaffinity(0))
DIVIDED = """
import json, sys
import jax
from training_tools import settings
from cnnjax import runtime
runtime.divide_cpu(settings(**json.loads(sys.argv[1])))
print(json.dumps(jax.device_count()))
"""


def devices(**options):
    done = child(["-c", DIVIDED, json.dumps({"runtime__kernels": "xla", **options})], XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(CORES < 2, reason="one core cannot be divided")
def test_a_cpu_is_divided_for_small_images():
    assert devices(data__batch_size=32, image__size=32) == 2
    assert devices(data__batch_size=2**20, image__size=32) == 1 << (CORES.bit_length() - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"data__batch_size": 33, "image__size": 32},
        {"data__batch_size": 30, "image__size": 32},
        {"data__batch_size": 64, "image__size": 65},
        {"data__batch_size": 64, "image__size": 32, "runtime__devices": 1},
        {"data__batch_size": 64, "image__size": 32, "mesh__fsdp": 2},
    ],
)
def test_a_cpu_stays_whole_otherwise(options):
    assert devices(**options) == 1


@pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
def test_kernels_share_out_their_work_themselves():
    assert devices(data__batch_size=64, image__size=32, runtime__kernels="native") == 1


def test_options_of_the_compiler_are_for_cpus_that_know_them(monkeypatch):
    assert runtime.compiler_options("gpu") == {}
    assert jax.jit(lambda x: x + 1, compiler_options=runtime.compiler_options("cpu"))(1) == 2

    def unknown(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(jax, "jit", unknown)
    assert runtime.compiler_options.__wrapped__("cpu") == {}


KEPT = """
import json, re, sys, threading
import numpy as np
from training_tools import settings
from cnnjax import runtime

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

kept = runtime.keep_memory(settings(runtime__keep_memory=json.loads(sys.argv[1])))
before = resident()

def use():
    arrays = [np.ones(40 << 20, np.uint8) for _ in range(3)]

use()
here = resident() - before > 90_000
thread = threading.Thread(target=use)  # another thread finds it, and adds none of its own
thread.start()
thread.join()
print(json.dumps([kept, here, resident() - before > 90_000, "memory kept" in runtime.describe(runtime.mesh())]))
assert resident() - before < 150_000
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of glibc")
@pytest.mark.parametrize("wanted", [True, False])
def test_freed_memory_is_kept_where_that_is_wanted(wanted):
    done = child(["-c", KEPT, json.dumps(wanted)])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [wanted] * 4


USED = """
import sys
from cnnjax.cli import program
from cnnjax.runtime import memory
assert program.run(sys.argv) == 0
print(bool(memory.kept["text"]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of glibc")
def test_modes_that_ask_a_trained_network_keep_freed_memory_too(plain, cell_folder, tmp_path):
    run = f"--workdir={plain.workdir}"
    given = ["--mode=predict", run, f"--input={next(cell_folder.rglob('*.png'))}", f"--output={tmp_path / 'p.csv'}"]
    for arguments, kept in ((given, "True"), (["--mode=eval", run, "--config.runtime.keep_memory=false"], "False")):
        done = child(["-c", USED, *arguments])
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == kept


ENDS = """
import os, signal, threading
from cnnjax import runtime
ready = threading.Barrier(3)
def end(number):
    ready.wait()
    runtime.end(f"reason {number}", 1)
for number in range(2):
    threading.Thread(target=end, args=[number]).start()
ready.wait()
runtime.end("reason 2", 1)
"""


def test_a_process_that_ends_for_several_reasons_says_one():
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr in {f"error: reason {number}\n" for number in range(3)}
