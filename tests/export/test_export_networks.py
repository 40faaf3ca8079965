"""Every network of `MODELS` as ONNX and StableHLO: the probabilities of the file are those of the network."""

import jax
import numpy as np
import onnxruntime
import pytest
from flax import nnx
from network_files import SMALL, case, small, structure
from training_tools import settings

from cnnjax import models
from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.export import FORMATS, read_stablehlo
from cnnjax.export.rules import RULES
from cnnjax.kernels import ACTIVATIONS, PLAIN
from cnnjax.models import Layer, Layered

# Networks that take seconds to trace; `convnet` to `vit_tiny` have all of their kinds of blocks but two.
DEEP = (
    "efficientnetv2_s",
    "tf_efficientnetv2_s",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "resnet34",
    "vit_small",
    "efficientnet_b0",
)
RELATIVE = 1e-5  # of the largest logit: float32 sums in another order


def of_onnx(path, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


def of_stablehlo(path, images):
    call = jax.export.deserialize(bytearray(read_stablehlo(path)[1])).call
    return np.asarray(jax.jit(call, compiler_options={"xla_backend_optimization_level": 0})(images))


def same(given, path, run) -> None:
    """The logits of a file are the network's: log-odds of probabilities that are not near 0 or 1."""
    wanted, found = given.probabilities, run(path, given.images)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert wanted.min() > 1e-4 and wanted.max() < 0.999 and wanted.std(0).min() > 0.01
    np.testing.assert_allclose(np.log(found), np.log(wanted), atol=RELATIVE * (given.amplified + 1), rtol=0)


def test_every_network_has_a_small_one():
    assert list(SMALL) == list(models.MODELS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in DEEP else ()) for n in models.MODELS])
def test_every_network_is_the_same_as_onnx_and_stablehlo(name, tmp_path):
    made = small(name)
    FORMATS["onnx"].write(made.made, tmp_path / "n.onnx")
    same(made, tmp_path / "n.onnx", of_onnx)
    if name in ("convnet", "vit_tiny") or name in DEEP:  # others compile for seconds; the path is one for all
        FORMATS["stablehlo"].write(made.made, tmp_path / "n.stablehlo")
        same(made, tmp_path / "n.stablehlo", of_stablehlo)


@pytest.mark.parametrize("options", [
    {"classes": 2, "shape": (20, 28)},
    {"image__zca": True, "shape": (8, 10), "model__channels": (4,), "classes": 2},
    {"image__mean": (0.4, 0.5, 0.6), "image__deviation": (0.2, 0.3, 0.25)},
    {"model__norm": "batch", "model__padding": ("valid", "same"), "model__convs": (1, 2), "model__pool_stride": 1,
     "model__dropout_dense": 0.5, "model__dropout_features": 0.5},
], ids=["two classes, oblong", "whitened", "standardized", "norms, valid and same"])  # fmt: skip
def test_every_setting_of_the_input_and_of_convnet_is_the_same(options, tmp_path):
    made = small("convnet", **options)
    for name, run in (("onnx", of_onnx), ("stablehlo", of_stablehlo)):
        FORMATS[name].write(made.made, tmp_path / name)
        same(made, tmp_path / name, run)


class Own(Layered):
    """Convolutions of all paddings and groups, and an activation that no row of the table has."""

    def __init__(self, outputs, section, *, preprocessing, dtype, ops, rngs):
        super().__init__(preprocessing, dtype, ops)
        self.conv1 = nnx.Conv(3, 6, (3, 5), strides=(2, 1), padding=((1, 0), (2, 3)), rngs=rngs)
        self.conv2 = nnx.Conv(6, 12, (3, 3), strides=2, padding="SAME", feature_group_count=3, use_bias=False, rngs=rngs)
        self.conv3 = nnx.Conv(12, 8, (2, 2), padding=1, kernel_dilation=(2, 2), rngs=rngs)
        self.outputs = nnx.Linear(8, outputs, use_bias=True, rngs=rngs)
        self.layers += (*(Layer(f"conv{i}", "conv", f"conv{i}", relu=True) for i in (1, 2, 3)), Layer("average", "average"),
                        Layer("outputs", "dense", "outputs"))  # fmt: skip


class Changed(Own):
    """The same with a layer of its own."""

    def apply(self, layer, x, rngs=None):
        return super().apply(layer, x, rngs) * 2


class Twice(nnx.Conv):
    """A convolution that computes something else."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Other(Own):
    """A network with such a convolution."""

    def __init__(self, outputs, section, *, rngs, **options):
        super().__init__(outputs, section, rngs=rngs, **options)
        self.conv3 = Twice(12, 8, (2, 2), rngs=rngs)


def own(kind: type):
    config = settings(image__size=15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, config.model.name, kind)
        network = models.network(config, 5, PLAIN)
    return case(network, Preprocessing.of(config.image), 5)


def test_a_network_of_the_users_own_is_the_same(tmp_path):
    made = own(Own)
    FORMATS["onnx"].write(made.made, tmp_path / "n.onnx")
    same(made, tmp_path / "n.onnx", of_onnx)


@pytest.mark.parametrize(
    ("kind", "why"), [(Changed, "Changed has a apply of its own"), (Other, "conv3 is a layer conv of Twice")]
)
def test_a_layer_without_a_rule_is_refused_and_stablehlo_takes_it(kind, why, tmp_path):
    made = own(kind)
    with pytest.raises(ConfigError) as error:
        FORMATS["onnx"].write(made.made, tmp_path / "n.onnx")
    assert str(error.value) == f"--format=onnx has no rule for this network ({why}); use --format=stablehlo, which takes any"
    assert not list(tmp_path.iterdir())
    FORMATS["stablehlo"].write(made.made, tmp_path / "n.stablehlo")
    same(made, tmp_path / "n.stablehlo", of_stablehlo)


def test_every_activation_and_every_class_of_the_table_is_reached():
    from cnnjax.export.graph import ACTIVATED

    assert ACTIVATED.keys() == ACTIVATIONS.keys()
    used = {type(module) for name in SMALL for _, module in nnx.iter_modules(structure(name)[1].model)}
    assert RULES.keys() - used == {nnx.Conv} - used
