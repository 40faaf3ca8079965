"""Vision transformers: their tables, position embeddings at other sizes, where they look, and how they train."""

import functools
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from page_tools import text
from safetensors.numpy import save_file
from training_tools import network_of, on_devices, settings

from cnnjax import inference, models, pages, weights
from cnnjax.errors import ConfigError
from cnnjax.models import patches, vit
from cnnjax.runs import RunDirectory

train = importlib.import_module("cnnjax.commands.train").train
TINY = {"patch": 4, "width": 8, "heads": 2, "depth": 1}


def transformer(monkeypatch, size=16, classes=3, made=vit.ViT, shape=TINY, **options):
    """A small network as vit_tiny."""
    monkeypatch.setitem(models.MODELS, "vit_tiny", functools.partial(made, **shape))
    return network_of(settings(model__name="vit_tiny", image__size=size, **options), classes)


def random_images(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))


# The table


@pytest.mark.parametrize(("name", "parameters", "gigaflops"), [
    ("vit_tiny", 5_717_416, 2.507), ("vit_small", 22_050_664, 9.198), ("dinov2_small", 22_013_800, 12.248),
])  # fmt: skip
def test_parameters_and_work_are_those_of_timm(monkeypatch, name, parameters, gigaflops):
    """For 224 pixels and 1,000 classes, counted by PyTorch's FlopCounterMode. All blocks are as the second one."""
    made, found = models.MODELS[name], []
    for depth in (1, 2):
        monkeypatch.setitem(models.MODELS, name, functools.partial(made, depth=depth))
        rows = models.table(network_of(settings(model__name=name, image__size=224), 1000).model)
        found.append(np.array([sum(row.parameters for row in rows), sum(row.mflops for row in rows)]))
    total = found[0] + 11 * (found[1] - found[0])
    assert inspect.signature(vit.ViT.__init__).parameters["depth"].default == 12
    assert total[0] == parameters and total[1] / 1000 == pytest.approx(gigaflops, abs=0.001)


def test_layer_by_layer(monkeypatch):
    network = transformer(monkeypatch, image__width=24, model__dropout_dense=0.1)
    rows = models.table(network.model)
    assert [(row.name, row.shape, row.parameters) for row in rows] == [
        ("patches", (4, 6, 8), 392), ("embed", (25, 8), 208), ("block1", (25, 8), 872),
        ("norm", (25, 8), 16), ("token", (8,), 0), ("dropout", (8,), 0), ("outputs", (3,), 27),
    ]  # fmt: skip
    pages.network_figure(rows, (16, 24), "drawn")
    params, stats = network.shapes
    assert sum(row.parameters for row in rows) == sum(p.size for p in jax.tree.leaves(params)) and stats == {}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("name", "sides", "line"), [
    ("vit_small", {"image__size": 100},
     "image.size=100: vit_small divides images into patches of 16 pixels; use --config.image.size=96 or --config.image.size=112"),
    ("dinov2_small", {"image__size": 8},
     "image.size=8: dinov2_small divides images into patches of 14 pixels; use --config.image.size=14"),
    ("vit_tiny", {"image__size": 64, "image__width": 65},
     "image.width=65: vit_tiny divides images into patches of 16 pixels; use --config.image.width=64 or --config.image.width=80"),
])  # fmt: skip
def test_a_size_that_patches_do_not_fill_is_refused_with_the_next_ones(name, sides, line):
    with pytest.raises(ConfigError) as error:
        network_of(settings(model__name=name, **sides), 3)
    assert str(error.value) == line


# Weights


def test_weights_begin_as_documented(monkeypatch):
    """Initial values are replaced by 7, because drawing those of a network takes seconds to compile."""
    assert float(vit.DRAWN(jax.random.key(0), (100, 100)).std()) == pytest.approx(0.02, rel=0.03)
    monkeypatch.setattr(vit, "DRAWN", lambda key, shape, dtype=jnp.float32: jnp.full(shape, 7, dtype))
    monkeypatch.setitem(patches.OPTIONS, "kernel_init", vit.DRAWN)
    params, _ = jax.jit(transformer(monkeypatch, made=vit.DINOv2, shape={**TINY, "scale": 1e-5}).make)()
    expected = {"kernel": 7, "cls_token": 7, "pos_embed": 7, "bias": 0, "scale": 1, "gamma": np.float32(1e-5)}
    for path, leaf in traverse_util.flatten_dict(params).items():
        assert (leaf == expected[path[-1]]).all(), path


def test_names_of_the_hub_of_dinov2_are_those_of_its_arrays():
    paths = [("embed", "cls_token"), ("embed", "pos_embed"), ("patches", "kernel"), ("block12", "norm1", "scale"),
             ("block12", "qkv", "kernel"), ("block12", "proj", "bias"), ("block12", "ls1", "gamma"), ("block1", "fc1", "bias"),
             ("block1", "fc2", "kernel"), ("norm", "bias")]  # fmt: skip
    names = models.reference_names(paths, vit.DINOv2.references["facebookresearch"])
    assert list(names.values()) == [
        "cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.11.norm1.weight", "blocks.11.attn.qkv.weight",
        "blocks.11.attn.proj.bias", "blocks.11.ls1.gamma", "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight", "norm.bias",
    ]  # fmt: skip


# resample_abs_pos_embed of timm 1.0.31, of the embeddings below for these rows and columns.
RESAMPLED = {
    (2, 3): [0.3, 0.595784, 0.411578, 0.642746, 0.310249, 0.522101, 0.700274],
    (6, 5): [0.3, 1.050202, 0.778817, 0.323438, 0.34364, 0.966314, 0.814225, 0.446842, 0.384191, 0.557777, 0.634502, 0.414963, 0.17653,
             0.462312, 0.72227, 0.435292, -0.007638, 0.496456, 0.492462, 0.483304, 0.977689, 0.280345, 0.411026, 0.529412, 0.647797,
             0.778479, 0.659913, 0.244644, 0.553289, 0.861935, 0.446666],
}  # fmt: skip


@pytest.mark.parametrize("grid", RESAMPLED)
def test_position_embeddings_of_another_size_are_those_of_timm(monkeypatch, grid):
    size, width = (4 * side for side in grid)
    shape = {**TINY, "width": 1, "heads": 1}
    model = transformer(monkeypatch, size, shape=shape, image__width=width).model
    published = ((np.arange(17) * 7 + 3) % 11 / 10).astype(np.float32).reshape(1, 17, 1)
    found = model.refitted(("embed", "pos_embed"), published, (1, 1 + grid[0] * grid[1], 1))
    np.testing.assert_allclose(found.ravel(), RESAMPLED[grid], atol=1e-6)


def test_published_positions_are_moved_to_an_oblong_image_of_as_many_patches(monkeypatch, tmp_path):
    square = transformer(monkeypatch, made=vit.DINOv2, shape={**TINY, "scale": 0.1})
    names = models.reference_names(traverse_util.flatten_dict(square.shapes[0]), vit.NAMES)
    rng, flat = np.random.default_rng(0), traverse_util.flatten_dict(square.shapes[0])
    drawn = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in flat.items() if path[0] != "outputs"}
    state = {names[path]: np.ascontiguousarray(models.to_reference(path, array)) for path, array in drawn.items()}
    save_file(state | {"mask_token": np.zeros((1, 8), np.float32)}, tmp_path / "w.safetensors")
    shape = {"image__size": 8, "image__width": 32, "model__weights": str(tmp_path / "w.safetensors")}
    config = settings(model__name="vit_tiny", **shape)
    network = network_of(config, 3)
    found, facts = weights.load(config, network)
    moved = network.model.refitted(("embed", "pos_embed"), drawn["embed", "pos_embed"], (1, 17, 8))
    assert facts.new == ("outputs/bias", "outputs/kernel") and set(found.arrays) == set(drawn)
    for path, array in drawn.items():
        np.testing.assert_array_equal(found.arrays[path], moved if path[-1] == "pos_embed" else array)
    assert not np.array_equal(moved, drawn["embed", "pos_embed"])


def test_nothing_else_is_refitted(monkeypatch):
    model = transformer(monkeypatch).model
    for path, shape in [(("embed", "cls_token"), (1, 1, 8)), (("embed", "pos_embed"), (1, 18, 8)), (("embed", "pos_embed"), (1, 26, 9)),
                        (("embed", "pos_embed"), (0, 8)), (("outputs", "kernel"), (8, 4))]:  # fmt: skip
        assert model.refitted(path, np.zeros(shape, np.float32), (1, 17, 8)) is None


# What it computes


def drawn(network):
    """Weights such that no scale is 1 and no bias 0."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        near = 1.0 if leaf.ndim == 1 else 0.0
        return jnp.asarray(near + rng.standard_normal(leaf.shape) * 0.3, jnp.float32)

    return jax.tree.map(draw, network.shapes[0])


def logits_of(network, params, images):
    return inference.logits_step({"params": params, "stats": {}}, images, network=network)


def test_bfloat16_gives_float32_logits_near_those_of_float32(monkeypatch):
    networks = [transformer(monkeypatch, train__precision=precision) for precision in ("float32", "bfloat16")]
    params, images = drawn(networks[0]), random_images(4, 16, 16)
    exact, rough = jax.jit(lambda *made: [logits_of(network, *made) for network in networks])(params, images)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()


def test_patches_are_told_apart_by_their_place_alone(monkeypatch):
    """Without position embeddings an image whose patches are exchanged has the same logits."""
    network = transformer(monkeypatch)
    params, images = drawn(network), random_images(2, 16, 16)
    exchanged = images.at[:, :4, :4].set(images[:, 8:12, 4:8]).at[:, 8:12, 4:8].set(images[:, :4, :4])

    @jax.jit
    def logits(share, images):
        embed = {**params["embed"], "pos_embed": share * params["embed"]["pos_embed"]}
        return logits_of(network, {**params, "embed": embed}, images)

    np.testing.assert_allclose(logits(0.0, images), logits(0.0, exchanged), atol=1e-5)
    assert np.abs(logits(1.0, images) - logits(1.0, exchanged)).max() > 1e-2


def test_the_two_parts_of_an_explanation_are_the_whole(monkeypatch):
    network = transformer(monkeypatch, made=vit.DINOv2, shape={**TINY, "scale": 0.1}, image__width=24)

    @jax.jit
    def parts(params, images):
        model = nnx.merge(network.eval_def, params, {})
        features = model.features(images)
        slopes = jax.grad(lambda x: model.head(x)[:, 0].sum())(features)
        return features, slopes, model.head(features), model(images)

    features, slopes, ours, whole = parts(drawn(network), random_images(2, 16, 24))
    assert features.shape == (2, 4, 6, 16)
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)
    assert slopes[..., :8].any() and not slopes[..., 8:].any()  # the class token speaks for no place


# Training


@pytest.mark.slow
def test_a_run_ends_with_a_report_that_shows_where_the_network_looks(make, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "vit_tiny", functools.partial(vit.ViT, **TINY))
    config = make(model__name="vit_tiny", model__dropout_dense=0.1, train__epochs=1, augment__flip_horizontal=True)
    summary = train(config, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    words = text(run.report)
    assert "4 × 4 places" in words and run.network_picture.exists() and np.isfinite(summary["test"]["loss"])


@pytest.mark.slow
def test_weights_divided_among_devices_train_as_whole_ones():
    code = """
import functools, json
import jax, numpy as np
from training_tools import settings, network_of
from cnnjax import models, runtime
from cnnjax.models import patches, vit
from cnnjax.training import optimizers, state, steps
models.MODELS["vit_tiny"] = functools.partial(vit.ViT, patch=4, width=64, heads=2, depth=1)
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (8, 8, 8, 3), np.uint8), "label": np.arange(8, dtype=np.int32) % 2}
found = []
for fsdp in (1, 4):
    config = settings(model__name="vit_tiny", image__size=8, data__batch_size=8, mesh__fsdp=fsdp)
    network = network_of(config, 2)
    tx = optimizers.make_optimizer(config.optimizer, lambda step: 1e-3)
    mesh = runtime.mesh(4, fsdp=fsdp)
    make = functools.partial(state.initial, network, tx)
    begin = jax.jit(make, out_shardings=models.shardings(jax.eval_shape(make), mesh))()
    parts = len({str(s.index) for s in begin.params["block1"]["fc1"]["kernel"].addressable_shards})
    after, values = steps.compile_steps(network, tx, mesh, config).train(begin, jax.device_put(batch, runtime.batched(mesh)))
    found.append([parts, float(values["loss"]), np.asarray(after.params["block1"]["qkv"]["kernel"]).tolist()])
print(json.dumps(found))
"""
    whole, divided = on_devices(4, code)
    assert (whole[0], divided[0]) == (1, 4)
    np.testing.assert_allclose(divided[1], whole[1], rtol=1e-5)
    np.testing.assert_allclose(divided[2], whole[2], atol=1e-5)
