"""Every kernel keeps one contract: the numbers of plain JAX, on every instruction set, within transformations and on devices."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from kernel_rows import SETS, Case, Kernel, instructions
from kernel_table import COMPOSITIONS, KERNELS
from training_tools import child, on_devices

from cnnjax.kernels import PLAIN, CpuOps, available, cpu, library, why_not

if not available():
    pytest.skip(why_not(), allow_module_level=True)

CASES = [(name, case) for name, kernel in KERNELS.items() for case in kernel.cases]
PROCESS = "import sys; sys.path.insert(0, 'tests/kernels'); import kernel_processes; kernel_processes.{}()"
DERIVED = [
    name for name, kernel in KERNELS.items() if kernel.grads and name != "sample"
]  # by a kernel; that of sample by JAX


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch):
    """Small dense layers are left to the kernel as well."""
    monkeypatch.setattr(cpu, "WIDE", 1)


def on_every_set(kernel: Kernel, case: Case, *drawn):
    """Results by the name of the instruction set; all in one program, since most of the time goes into compiling."""
    found = {}
    for name in SETS:
        with instructions(name):
            found[name] = kernel.results(CpuOps(name), case, *drawn)
    return found


def as_float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def hold_close(found: np.ndarray, wanted: np.ndarray, *, tolerance: float):
    """Asserts that a difference is at most a part of the largest number."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def hold_nan(found: np.ndarray, wanted: np.ndarray, *, spread: int):
    """Asserts that NaN is where plain JAX has it, in no other image, and hardly elsewhere."""
    found, wanted = np.isnan(found), np.isnan(wanted)
    assert found[wanted].all() and found.sum() <= spread * wanted.sum()
    assert not found[~wanted.reshape(len(wanted), -1).any(1)].any()


@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_values_and_gradients_are_those_of_plain_jax_on_every_instruction_set(name, case):
    kernel = KERNELS[name]
    ours = jax.jit(functools.partial(on_every_set, kernel, case))
    plain = jax.jit(functools.partial(kernel.results, PLAIN, case))

    def check(drawn, hold, gradients=True):
        with jax.enable_x64(True):
            wanted = [np.asarray(array) for array in plain(*map(as_float64, drawn))]
        count = len(wanted) - (0 if gradients else len(kernel.grads))
        for instruction_set, found in ours(*drawn).items():
            assert [(a.shape, a.dtype) for a in found] == [(b.shape, np.float32) for b in wanted], instruction_set
            for a, b in zip(found[:count], wanted, strict=False):
                hold(np.asarray(a), b)
        return wanted

    drawn = kernel.drawn(case)
    check(drawn, functools.partial(hold_close, tolerance=kernel.tolerance))
    if kernel.is_exact:
        check(kernel.drawn(case, whole=True), np.testing.assert_array_equal)
    x = drawn[1 if name == "adam" else 0]
    x[tuple(size // 4 * 2 for size in x.shape)] = np.nan
    wanted = check(drawn, functools.partial(hold_nan, spread=kernel.spread), gradients=False)
    assert np.isnan(wanted[0]).any()


def program(kernel: Kernel, ops, case: Case) -> str:
    return jax.jit(functools.partial(kernel.results, ops, case)).lower(*kernel.drawn(case)).as_text()


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_the_kernel_is_called_where_it_fits_and_plain_jax_elsewhere(kernel):
    text = program(kernel, CpuOps(), kernel.many)
    assert all(f"cnnjax_{library.instruction_set()}_{handler}" in text for handler in kernel.handlers)
    assert "cnnjax_" not in program(kernel, PLAIN, kernel.many)
    assert kernel.other is None or "cnnjax_" not in program(kernel, CpuOps(), kernel.other)


def test_every_handler_of_the_library_is_called_by_a_row():
    assert {handler for kernel in KERNELS.values() for handler in kernel.handlers} == set(library.HANDLERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KERNELS if KERNELS[name].batch])
def test_vmap_takes_one_batch_after_the_other(name):
    kernel, case = KERNELS[name], KERNELS[name].cases[0]
    *arrays, g = kernel.drawn(case)
    axes = [0 if i in kernel.batch else None for i in range(len(arrays))] + [0]
    double = [np.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip([*arrays, g], axes, strict=True)]
    one = functools.partial(kernel.results, CpuOps(), case)

    def mapped(ops, *arrays, **options):
        return jax.vmap(lambda *arrays: kernel.call(ops, *arrays, **options), axes[:-1])(*arrays)

    divided = tuple(i for i in kernel.grads if i in kernel.batch)
    outside = dataclasses.replace(kernel, call=mapped, grads=divided)
    inside = dataclasses.replace(kernel, grads=divided)

    @jax.jit
    def both(*double):
        each = [[a[i] if axis == 0 else a for a, axis in zip(double, axes, strict=True)] for i in range(2)]
        wanted = [one(*drawn) for drawn in each], [inside.results(CpuOps(), case, *drawn) for drawn in each]
        return (jax.vmap(one, axes)(*double), outside.results(CpuOps(), case, *double)), wanted

    for found, wanted in zip(*both(*double), strict=True):
        for i in range(2):
            for a, b in zip(found, wanted[i], strict=True):
                # Statistics of a batch are made by JAX, which rounds them as it compiles them.
                np.testing.assert_allclose(a[i], b, rtol=0, atol=0 if kernel.is_alone else 2e-6 * np.abs(b).max())


@pytest.mark.parametrize("name", DERIVED)
def test_checkpoint_gives_the_same_gradients(name):
    kernel, case = KERNELS[name], KERNELS[name].cases[0]
    *arrays, _ = kernel.drawn(case)

    def loss(*arrays):
        return (kernel.call(CpuOps(), *arrays, **case.options)[0] ** 3).sum()

    again, wanted = jax.jit(lambda *arrays: [jax.grad(f, kernel.grads)(*arrays) for f in (jax.checkpoint(loss), loss)])(
        *arrays
    )
    for a, b in zip(again, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", DERIVED)
def test_forward_mode_says_that_it_is_not_there(name):
    kernel, case = KERNELS[name], KERNELS[name].cases[0]
    *arrays, _ = kernel.drawn(case)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(functools.partial(kernel.call, CpuOps(), **case.options), tuple(arrays), tuple(arrays))


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads():
    found = []
    for threads in ("1", "7", "70"):
        done = child(["-c", PROCESS.format("print_digests")], NPROC=threads)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0].keys() > KERNELS.keys() | COMPOSITIONS.keys()
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_one_two_and_eight_devices_give_the_same():
    found = on_devices(8, PROCESS.format("print_devices"))
    rows = KERNELS | COMPOSITIONS
    assert found.keys() == {name for name in rows if rows[name].batch}
    for name, row in found.items():
        kernel = rows[name]
        assert max(row["differences"]) < 2e-5, name
        assert all(row["divided"]), f"{name}: the result is not divided any more"
        assert row["gathered"][0] == row["summed"][0] == 0, name
        assert max(row["gathered"]) <= len(kernel.sharded), (
            f"{name}: the batch is put together; only the divided weights may be"
        )
        assert set(kernel.grads) <= set(kernel.batch) or min(row["summed"][1:]) >= 1, f"{name}: nothing is summed"
        assert row["is_same"] or not kernel.is_alone, f"{name} by shard_map"
