"""Steps that are compiled for a platform which this machine does not have."""

import importlib.util
import json
import re

import jax
import pytest
from training_tools import child, settings

from cnnjax import models, runtime
from cnnjax.kernels import PLAIN
from cnnjax.models import MODELS
from cnnjax.training import feeds, optimizers, steps

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


AHEAD = """
import json, jax, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType
from training_tools import settings
from cnnjax import models, runtime
from cnnjax.training import feeds, optimizers, steps
config = settings(image__size=32, **{"augment": "strong"})
chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = jax.sharding.Mesh(np.array(chips).reshape(2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
network = models.network(config, 2, runtime.ops(config.runtime, runtime.platform_of(mesh)))
tx = optimizers.make_optimizer(config.optimizer, optimizers.make_schedule(config.optimizer, 10, 2))
made = steps.compile_steps(network, tx, mesh, config)
compiled = made.train.lower(made.abstract, *feeds.shapes(mesh, 64, config.image.shape, 0)).compile()
memory = compiled.memory_analysis()
print(json.dumps({"chips": len(chips), "kind": chips[0].device_kind, "arguments": memory.argument_size_in_bytes,
                  "used_again": memory.alias_size_in_bytes, "collectives": compiled.as_text().count("all-reduce(")}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu, which compiles for TPUs: pip install '.[tpu]'"
)
def test_default_step_compiles_for_a_tpu_that_is_not_here():
    # Without these two libtpu looks for a TPU, and for the service that would describe it.
    done = child(["-c", AHEAD], timeout=600, TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["chips"] == 4 and "TPU" in found["kind"]
    assert found["used_again"] > 0.9 * found["arguments"] - 64 * 32 * 32 * 3 > 0
    assert found["collectives"] >= 1
