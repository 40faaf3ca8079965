"""Steps that are compiled for a platform which this machine does not have."""

import importlib.util
import re

import jax
import pytest
from training_tools import child, on_devices, settings

from cnnjax import models, runtime
from cnnjax.errors import ConfigError
from cnnjax.kernels import PLAIN
from cnnjax.models import MODELS
from cnnjax.training import collectives, feeds, optimizers, steps

SMALL = {"augment__rotation": 10.0, "augment__brightness": 0.1, "augment__mixup": 0.2}

FAST = ("convnet", "resnet18")  # the others take many seconds
# Rows that have the layers of another one, in other numbers.
ALIKE = (
    "resnet10_half",
    "resnet18_half",
    "resnet34",
    "tf_efficientnetv2_s",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "vit_small",
)
CASES = [
    ("convnet", "float32"),
    *(
        pytest.param(name, "bfloat16", marks=[] if name in FAST else pytest.mark.slow)
        for name in MODELS
        if name not in ALIKE
    ),
]


SIZES = {"dinov2_small": 28}  # pixels, where 32 do not fit


def lowered(*platforms: str, **options) -> str:
    """StableHLO of a network's training step, for several platforms at once."""
    config = settings(**{"image__size": 32, **SMALL, **options})
    mesh = runtime.mesh(1)
    network = models.network(config, 3, runtime.ops(config.runtime, platforms[0]))
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 1e-3)
    compiled = steps.compile_steps(network, tx, mesh, config)
    batch, resident = feeds.shapes(mesh, 8, config.image.shape, 0)
    traced = compiled.train.trace(compiled.abstract, batch, resident)
    return traced.lower(lowering_platforms=platforms).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_step_of_each_network_lowers_for_accelerators_without_kernels_of_the_cpu(name, precision):
    text = lowered("cuda", "tpu", model__name=name, train__precision=precision, image__size=SIZES.get(name, 32))
    calls = set(re.findall(r"custom_call @(\w+)", text))
    assert not {call for call in calls if "cnnjax" in call or "callback" in call.lower()}, calls
    assert "f64" not in text
    assert ("bf16" in text) == (precision == "bfloat16")
    assert "tf.aliasing_output" in text  # the state's memory is used again


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_operations_follow_the_platform_that_is_compiled_for(platform):
    assert jax.devices()[0].platform == "cpu"
    assert runtime.ops(settings().runtime, platform) == PLAIN


COLLECTIVES = """
import dataclasses, json
from training_tools import settings
from cnnjax import runtime
from cnnjax.training import compile_ahead
found = {}
for name, fsdp, options in (("alone", 1, {}), ("divided", 8, {})):
    config = settings(image__size=32, model__norm="batch", model__dense=(64,), mesh__fsdp=fsdp, runtime__kernels="xla", **options)
    made = compile_ahead(config, runtime.mesh(fsdp=fsdp), 2, 64)
    found[name] = {kind: dataclasses.asdict(part) for kind, part in made.collectives.items()} | {"memory": made.memory}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_step_on_8_devices_sums_gradients_and_gathers_only_what_is_divided():
    found = on_devices(8, COLLECTIVES)
    network = models.network(settings(image__size=32, model__norm="batch", model__dense=(64,)), 2, PLAIN)
    size = 4 * sum(x.size for x in jax.tree.leaves(network.shapes[0]))
    assert set(found["alone"]) == {"all-reduce", "memory"}
    assert size <= found["alone"]["all-reduce"]["bytes"] < 1.2 * size
    assert set(found["divided"]) > {"all-reduce", "all-gather"}
    assert found["divided"]["all-gather"]["bytes"] > 0.5 * size
    assert found["divided"]["memory"] < found["alone"]["memory"]


TEXT = """HloModule jit_step, num_partitions=8
%a = (f32[10,20]{1,0:T(8,128)}, bf16[4]{0}) all-reduce(%x, %y), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
%b = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
%c = f32[64]{0} all-gather-done(%b)
%d = f32[8]{0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
%e = f32[16]{0} all-reduce(%x), to_apply=%add
%f = f32[16]{0} fusion(%e), calls=%all-reduce-scatter
%g = f32[16]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
"""


def test_collectives_are_read_from_the_compiled_program():
    found = {kind: (part.count, part.bytes, part.moved) for kind, part in collectives(TEXT).items()}
    assert found == {"all-reduce": (2, 808 + 64, 2 * 808 * 3 / 4 + 2 * 64 * 7 / 8), "all-gather": (1, 256, 256 * 7 / 8),
                     "reduce-scatter": (1, 32, 32)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu, which compiles for TPUs: pip install '.[tpu-aot]'"
)
def test_describe_compiles_the_step_for_tpus_that_are_not_here(tmp_path):
    def described(*flags):
        return child(["launch.py", "--mode=describe", "--config=configs/malaria.py:demo", f"--workdir={tmp_path / 'x'}",
                      "--config.data.demo_cells=120", *flags], timeout=600)  # fmt: skip

    done = described("--topology=v5e:2x2")
    assert done.returncode == 0, done.stderr
    text = done.stdout[done.stdout.index("compiled for v5e:2x2: 4 x TPU") :]
    state, between = map(
        float, re.search(r"memory +([\d.]+) MB state and images, ([\d.]+) MB between, of 64 images", text).groups()
    )
    assert 9 < state < 11 and 0 < between < 20 and re.search(r"all-reduce +\d+ of 3.03 MB; 4.55 MB leave", text)
    for flags, why in ((["--topology=v5e:3x5"], "v5e:2x4"), (["--topology=v5e:2x2", "--config.data.batch_size=62"], "batch_size=64"),
                       (["--topology=v5e:2x2", "--config.data.batch_size=8000000"], "smaller --config.data.batch_size")):  # fmt: skip
        done = described(*flags)
        assert done.returncode == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_wrong_topologies_are_one_line():
    for text, why in (
        ("v9:2x2", "v9 is none of v4, v5e, v5p, v6e"),
        ("abc", "such as v4:2x2x2"),
        ("v5e:2x4@", "such as v4:2x2x2"),
    ):
        with pytest.raises(ConfigError, match=why):
            runtime.topology(text)
