"""Files of weights: read without a risk, matched by the names of their collection, and asked what images they want."""

import json
import os
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file
from training_tools import Said, network_of, one_line, settings
from weight_files import TINY, drawn, saved, tiny_network

from cnnjax import config as config_lib
from cnnjax import models, training, weights
from cnnjax.config import Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.models import Expected
from cnnjax.runs import RunDirectory


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """`model.name=tiny`."""
    monkeypatch.setitem(models.MODELS, "tiny", TINY)


def chosen(path, **overrides):
    return settings(**{"model__name": "tiny", "model__weights": str(path), "image__size": 64, **overrides})


def load(path, network=None, **overrides):
    return weights.load(chosen(path, **overrides), network or tiny_network())


def test_every_array_but_the_last_layer_comes_from_the_file(tmp_path):
    arrays = drawn()
    path = saved(tmp_path / "w.safetensors", {**arrays, "bn1.num_batches_tracked": np.array(7)})
    matched, facts = load(path)
    names = {"/".join(path): array for path, array in matched.arrays.items()}
    assert np.array_equal(names["conv1/kernel"], arrays["conv1.weight"].transpose(2, 3, 1, 0))
    assert np.array_equal(names["norm1/var"], arrays["bn1.running_var"])
    assert np.array_equal(names["block2_1/norm_projection/scale"], arrays["layer2.0.downsample.1.weight"])
    assert len(names) == len(arrays) - 2 and all(array.dtype == np.float32 for array in names.values())
    assert (facts.file, facts.names, facts.new) == ("w.safetensors", "timm", ("outputs/bias", "outputs/kernel"))
    assert len(facts.sha256) == 64 and facts.revision == "" and "drawn anew were outputs/bias" in facts.text


@pytest.mark.parametrize(("classes", "there", "new"), [(5, 5, 0), (3, 5, 2), (2, 1, 0), (2, 2, 2)])
def test_the_last_layer_is_new_where_classes_differ(classes, there, new, tmp_path):
    arrays = {**drawn(3), "fc.weight": np.ones((there, 8), np.float32), "fc.bias": np.ones(there, np.float32)}
    matched, _ = load(saved(tmp_path / "w.safetensors", arrays), tiny_network(classes))
    assert len(matched.new) == new, "two classes share one logit"


def test_a_file_without_a_last_layer_is_whole(tmp_path):
    arrays = {name: array for name, array in drawn().items() if not name.startswith("fc.")}
    assert len(load(saved(tmp_path / "w.safetensors", arrays))[0].new) == 2


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.model.", "_orig_mod."])
def test_prefixes_that_all_names_have_are_taken_off(prefix, tmp_path):
    path = saved(tmp_path / "w.safetensors", {prefix + name: array for name, array in drawn().items()})
    assert len(load(path)[0].arrays) == len(drawn()) - 2


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(kind, tmp_path):
    arrays = drawn(dtype=kind)
    matched, _ = load(saved(tmp_path / "w.safetensors", arrays))
    found = matched.arrays["conv1", "kernel"]
    assert found.dtype == np.float32 and np.array_equal(
        found, arrays["conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32)
    )


def changed(changes):
    """The arrays of the network with some of them replaced, added, or for None left out."""
    return {name: array for name, array in {**drawn(), **changes}.items() if array is not None}


@pytest.mark.parametrize(("changes", "said"), [
    ({"bn1.bias": None}, "it lacks bn1.bias"),
    ({"extra.weight": np.ones(2, np.float32)}, "left over are extra.weight"),
    ({"bn1.bias": None, **{f"x{i}": np.ones(1, np.float32) for i in range(8)}},
     "it lacks bn1.bias; left over are x0, x1, x2, x3, x4, x5 and 2 more"),
    ({"bn1.bias": np.ones(9, np.float32)}, "of another shape are bn1.bias [9] (here norm1.bias [4])"),
    ({"bn1.bias": np.array([np.nan, 0, 0, 0], np.float32)}, "bn1.bias of "),
    ({"bn1.bias": np.arange(4)}, "is of type I64; save it as float32"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_that_names_both_sides(changes, said, tmp_path):
    with pytest.raises(ConfigError) as error:
        load(saved(tmp_path / "w.safetensors", changed(changes)))
    assert said in one_line(error)


def test_a_file_of_another_network_is_told_by_its_names(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(saved(tmp_path / "w.safetensors", {"features.0.weight": np.ones(3, np.float32)}))
    assert "none of its arrays (features.0.weight) is one of model.name=tiny, such as" in one_line(error)


def test_images_below_the_size_of_the_stem_are_told_what_size(tmp_path):
    path = saved(tmp_path / "w.safetensors", drawn())
    with pytest.raises(ConfigError) as error:
        load(path, tiny_network(image__size=32))
    assert "conv1.weight [4, 3, 7, 7] (here conv1.kernel [3, 3, 3, 4]); use --config.image.size=64 or more" in one_line(
        error
    )


def test_an_array_of_another_shape_may_be_refitted(tmp_path, monkeypatch):
    def refitted(path, array, shape):
        return array[: shape[0]] if path == ("norm1", "bias") else None

    monkeypatch.setattr(TINY.func, "refitted", staticmethod(refitted))
    matched, _ = load(saved(tmp_path / "w.safetensors", changed({"bn1.bias": np.arange(9, dtype=np.float32)})))
    assert np.array_equal(matched.arrays["norm1", "bias"], [0, 1, 2, 3])


def test_a_network_without_published_weights_says_so(tmp_path):
    path = saved(tmp_path / "w.safetensors", drawn())
    config = settings(model__weights=str(path))
    with pytest.raises(ConfigError) as error:
        weights.load(config, models.network(config, 3, tiny_network().ops))
    assert "no published weights are known of model.name=convnet" in one_line(error)


def whole():
    return {"a": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"PK\3\4" + bytes(100)),
    lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"),
    lambda path: path.write_bytes(path.read_bytes()[:-4]),
    lambda path: path.write_bytes(path.read_bytes() + b"more"),
    lambda path: path.write_bytes(path.read_bytes().replace(b"[2,3]", b"[2,9]")),
    lambda path: path.write_bytes(path.read_bytes().replace(b"[0,24]", b"[9,24]")),
    lambda path: path.unlink(),
    lambda path: path.unlink() or path.mkdir(),
    lambda path: path.unlink() or os.mkfifo(path),
], ids=["empty", "zip", "huge header", "list", "cut", "longer", "shape", "offsets", "gone", "folder", "pipe"])  # fmt: skip
def test_a_damaged_file_is_one_line(damage, tmp_path):
    save_file(whole(), tmp_path / "w.safetensors")
    damage(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "w.safetensors")
    assert "model.weights" in one_line(error) and "w.safetensors" in one_line(error)


@pytest.mark.parametrize(("text", "said"), [
    ("a/x.pth", "is a pickle, which can run code and is not read; convert it where PyTorch is: import torch, safetensors.torch; state = "
     "torch.load('a/x.pth', map_location='cpu', weights_only=True); safetensors.torch.save_file("),
    ("x.ckpt", "is a pickle"),
    ("x.npz", "write FILE.safetensors, hf:OWNER/NAME of the Hugging Face Hub, or run:DIR of another run"),
    ("run:", "write run:DIR"),
    ("hf:resnet18", "write hf:OWNER/NAME, such as hf:timm/resnet18.a1_in1k"),
    ("hf:a/b:pytorch_model.bin", "name a .safetensors file of the repository"),
])  # fmt: skip
def test_other_values_say_what_to_write(text, said):
    with pytest.raises(ConfigError) as error:
        settings(model__weights=text)
    assert said in one_line(error)


def test_a_folder_is_taken_for_a_run(tmp_path):
    with pytest.raises(ConfigError, match=f"for the weights of a run write run:{tmp_path}"):
        settings(model__weights=str(tmp_path))


# The images that weights want


WANTS = {"size": 96, "resize": "bicubic", "mean": (0.5, 0.25, 0.125), "deviation": (0.5, 0.5, 0.25)}


@pytest.fixture
def wanting(monkeypatch):
    """The published weights of `tiny` want other images than ImageNet's."""
    monkeypatch.setattr(TINY.func, "expects", Expected(**WANTS))


def resolved(config, tmp_path):
    said = Said()
    return training.with_weights(config, RunDirectory(tmp_path / "run"), said).image, said.lines


def test_what_is_left_open_comes_with_the_weights(wanting, tmp_path):
    path = saved(tmp_path / "w.safetensors", whole())
    image, lines = resolved(chosen(path, image__size="auto", image__resize="auto"), tmp_path)
    assert {name: image[name] for name in WANTS} == WANTS
    assert lines == [
        "  as the weights want: image.size=96, image.resize=bicubic, image.mean=0.5,0.25,0.125, image.deviation=0.5,0.5,0.25"
    ]
    made = Preprocessing.of(image)
    assert (made.mean, made.deviation, made.resize, made.shape) == (WANTS["mean"], WANTS["deviation"], "bicubic", (96, 96))


def test_what_is_set_stays_and_the_difference_is_said_once(wanting, tmp_path):
    path = saved(tmp_path / "w.safetensors", whole())
    image, lines = resolved(chosen(path, image__mean=(0.0, 0.0, 0.0)), tmp_path)
    assert (image.size, image.resize, image.mean, image.deviation) == (64, "bilinear", (0.0, 0.0, 0.0), WANTS["deviation"])
    assert lines[1:] == ["  the weights were trained with image.size=96, image.resize=bicubic, image.mean=0.5,0.25,0.125; here is image.size=64, "
                         "image.resize=bilinear, image.mean=0,0,0 (--config.image.size=auto --config.image.resize=auto --config.image.mean='()' "
                         "takes theirs)"]  # fmt: skip


def test_without_weights_auto_is_the_default(tmp_path):
    config = settings(image__size="auto", image__resize="auto")
    assert (config.image.size, config.image.resize) == (64, "bilinear")
    assert resolved(config, tmp_path)[1] == []


CARD = {"architecture": "tiny", "pretrained_cfg": {"input_size": [3, 80, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 1],
                                                   "interpolation": "bicubic", "crop_pct": 0.9}}  # fmt: skip


def test_a_config_beside_the_file_says_more_than_the_network(tmp_path):
    path = saved(tmp_path / "model.safetensors", whole())
    (tmp_path / "config.json").write_text(json.dumps(CARD))
    image, _ = resolved(chosen(path, image__size="auto", image__resize="auto"), tmp_path)
    assert (image.shape, image.resize, image.mean, image.deviation) == (
        (80, 48),
        "bicubic",
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 1.0),
    )
    (tmp_path / "config.json").write_text('{"model_type": "another"}')
    assert resolved(chosen(path, image__size="auto"), tmp_path)[0].shape == (224, 224)


@pytest.mark.parametrize(("name", "other"), [("efficientnet_lite0", "efficientnet_lite0"), ("efficientnet_b0", "tf_efficientnet_b0"),
                                             ("mobilenetv3_large_100", "tf_mobilenetv3_large_100")])  # fmt: skip
def test_weights_of_a_network_that_only_has_the_same_names_are_refused(name, other, tmp_path):
    path = saved(tmp_path / "model.safetensors", whole())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": other}))
    with pytest.raises(ConfigError, match=f"are of timm's {other}, which pads images otherwise"):
        resolved(chosen(path, model__name=name), tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": name.replace("efficientnet_lite0", "tf_efficientnet_lite0")})
    )
    assert resolved(chosen(path, model__name=name), tmp_path)[0].mean


@pytest.mark.parametrize("card", [
    "{", "[" * 100_000, '{"pretrained_cfg": {"mean": [NaN, 0, 0]}}', '{"pretrained_cfg": {"std": [0, 0, 0]}}', '{"mean": 3}',
    '{"input_size": [3, 1000000, 5]}', '{"input_size": [1, 28, 28]}', '{"input_size": "abc"}', '{"mean": ["a", "b", "c"]}', '{"mean": [900, 0, 0]}',
    '{"input_size": [3, 1e400, 5]}',
])  # fmt: skip
def test_a_hostile_config_is_one_line(card, tmp_path):
    path = saved(tmp_path / "model.safetensors", whole())
    (tmp_path / "config.json").write_text(card)
    with pytest.raises(ConfigError) as error:
        resolved(chosen(path, image__size="auto"), tmp_path)
    assert "config.json is damaged" in one_line(error)


@pytest.mark.parametrize(("overrides", "said"), [
    ({"image__mean": (0.5,)}, "image.mean=(0.5,): write three numbers"),
    ({"image__deviation": (0.5, 0.5, 0.0)}, "must hold numbers of above 0"),
    ({"image__zca": True, "image__size": 16, "image__mean": (0.5, 0.5, 0.5)}, "image.zca makes the mean 0"),
    ({"model__weights": "a.safetensors", "image__size": "auto", "image__width": 48}, "is part of image.size=auto"),
])  # fmt: skip
def test_wrong_images_are_refused(overrides, said):
    with pytest.raises(ConfigError) as error:
        settings(**overrides)
    assert said in str(error.value)


def test_a_config_of_a_run_is_never_auto():
    tree = json.loads(config_lib.to_json(settings(model__weights="a.safetensors")))
    tree["image"]["size"] = config_lib.AUTO
    with pytest.raises(ConfigError, match="are never auto"):
        config_lib.from_dict(tree)


@pytest.mark.parametrize(("before", "now"), [("", ""), ("/runs/a", "run:/runs/a")])
def test_a_config_of_an_older_version_has_the_key_of_this_one(before, now):
    tree = json.loads(config_lib.to_json(settings()))
    del tree["model"]["weights"]
    tree["train"]["init_from"] = before
    assert config_lib.from_dict(tree).model.weights == now == config_lib.completed(tree)["model"]["weights"]
    assert config_lib.differences(tree, json.loads(config_lib.to_json(settings(model__weights=now)))) == []
    with pytest.raises(ConfigError, match=r"'train.init_from' is --config.model.weights=run:DIR now"):
        config_lib.override(config_lib.default(), {"train.init_from": "runs/a"})


def test_the_network_subtracts_the_mean_and_divides():
    mean, deviation = (0.5, 0.25, 0.125), (0.5, 0.5, 0.25)
    made = network_of(settings(image__size=8, model__channels=(2,), image__mean=mean, image__deviation=deviation), 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    layers = list(made.model.layers)
    found = made.model._entered(images, layers)
    by_hand = (images / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)
    assert len(layers) == len(made.model.layers), "kernels that scale images themselves are left out"


def test_arrays_fill_the_trees_of_the_network(tmp_path):
    network = tiny_network()
    matched, _ = load(saved(tmp_path / "w.safetensors", drawn()), network)
    paths = {path: leaf.shape for tree in network.shapes for path, leaf in traverse_util.flatten_dict(tree).items()}
    assert {path: array.shape for path, array in matched.arrays.items()} == {
        p: s for p, s in paths.items() if p[0] != "outputs"
    }
    assert len(jax.tree.leaves(network.shapes)) == len(paths)
