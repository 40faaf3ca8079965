"""Where a network looks: at what decides, by its own weights, for every network, on files and in a report."""

import dataclasses
import hashlib
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from page_tools import text
from PIL import Image
from training_tools import Said, network_of, one_line, settings, tiny

import cnnjax
from cnnjax import inference, models, runtime
from cnnjax.commands.evaluate import evaluate
from cnnjax.commands.predict import predict
from cnnjax.commands.report import write_report
from cnnjax.data import resize
from cnnjax.errors import DataError
from cnnjax.inference.explanation import agreements, checked, log_odds
from cnnjax.runs import RunDirectory

DISC = 14  # pixels, across the disc, of 48


def discs(count, seed=0):
    """Images uint8 [n, 48, 48, 3], every second one with a bright disc, and the places that the discs cover, bool [n, 48, 48]."""
    rng = np.random.default_rng(seed)
    images = rng.normal(90, 12, (count, 48, 48, 3))
    y, x = np.mgrid[:48, :48]
    centres = rng.integers(9, 39, (count, 2))
    places = np.hypot(y - centres[:, :1, None], x - centres[:, 1:, None]) < DISC / 2
    places[::2] = False
    images[places] = 220
    return np.clip(images, 0, 255).astype(np.uint8), places


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A run that has learned whether there is a disc: its `workdir` and its `classifier`."""
    root = tmp_path_factory.mktemp("discs")
    for i, image in enumerate(discs(160)[0]):
        file = root / "images" / ("disc" if i % 2 else "empty") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    config = tiny(root / "images", cache, data__positive="disc", data__group="", split__method="stratified", image__size=24,
                  train__epochs=6, model__channels=(16, 16))  # fmt: skip
    run = cnnjax.train(config, root / "run")
    assert run.test["accuracy"] > 0.9
    return SimpleNamespace(workdir=root / "run", config=config, classifier=inference.load(root / "run"))


@pytest.fixture(scope="module")
def seeing(trained):
    return trained.classifier


@pytest.fixture(scope="module")
def with_disc(seeing):
    """Ten new images with a disc: `images`, their `places`, and `pixels` as the network sees them."""
    images, places = discs(20, seed=1)
    how = seeing.preprocessing
    pixels = np.stack([resize(image, how.shape, how.resize) for image in images[1::2]])
    return SimpleNamespace(images=list(images[1::2]), places=places[1::2], pixels=pixels)


def engine_of(config, classes):
    """A network with random weights, of a size that keeps the numbers of a deep one finite."""
    mesh, network, rng = runtime.mesh(1), network_of(config, classes), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32), network.shapes[0]
    )
    stats = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), network.shapes[1])
    return inference.Engine(inference.compile_logits(network, mesh), {"params": params, "stats": stats}, mesh, network)


def likeness(a, b):
    """Correlation of two maps; 0 where one of them is the same everywhere."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] if np.ptp(a) and np.ptp(b) else 0.0


def test_the_map_is_bright_where_the_object_is(seeing, with_disc):
    maps = seeing.explain(with_disc.images)
    assert all(heat.shape == (48, 48) and heat.dtype == np.float32 and 0 <= heat.min() <= heat.max() <= 1 for heat in maps)
    share = np.mean([heat[place].sum() / heat.sum() for heat, place in zip(maps, with_disc.places, strict=True)])
    chance = with_disc.places.mean()
    assert share > 3 * chance, f"{share:.2f} of the map is on {chance:.2f} of the image"
    assert np.mean([place.ravel()[heat.argmax()] for heat, place in zip(maps, with_disc.places, strict=True)]) >= 0.4, (
        "brightest"
    )


def test_covering_the_object_agrees_with_the_map(seeing, with_disc):
    engine, called = seeing._restored.engine, np.full(10, seeing.classes.index("disc"))
    maps = inference.Explainer(engine).maps(with_disc.pixels, called)
    own = np.mean(agreements(engine, with_disc.pixels, called, maps, 8))
    of_others = np.mean(agreements(engine, with_disc.pixels, called, np.roll(maps, 1, 0), 8))
    assert own > 0.4 and of_others < own - 0.3, (own, of_others)
    assert agreements(engine, with_disc.pixels[:1], called[:1], np.zeros_like(maps[:1]), 8) == [None]


def test_maps_depend_on_the_weights(seeing, with_disc):
    """The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): weights are made random from the last layer down."""
    engine, called = seeing._restored.engine, np.full(10, seeing.classes.index("disc"))

    def maps(params):
        other = dataclasses.replace(engine, model={**engine.model, "params": params})
        return inference.Explainer(other).maps(with_disc.pixels, called)

    params, rng, found = dict(engine.model["params"]), np.random.default_rng(0), {}
    own = maps(params)
    np.testing.assert_array_equal(own, maps(params))
    for name in ("outputs", "dense1", "conv2", "conv1"):
        params[name] = jax.tree.map(lambda x: rng.normal(0, np.std(x) + 1e-3, x.shape).astype(np.float32), params[name])
        found[name] = np.mean([likeness(a, b) for a, b in zip(own, maps(params), strict=True)])
    assert max(map(abs, found.values())) < 0.5 and abs(found["conv1"]) < 0.35, found


@pytest.mark.parametrize(("options", "classes"), [
    ({"image__size": 12, "image__width": 16, "image__zca": True}, 3), ({"train__precision": "bfloat16"}, 2),
    ({"model__norm": "batch", "runtime__kernels": "xla", "model__pool_stride": 1}, 5),
    pytest.param({"model__name": "resnet18"}, 3, marks=pytest.mark.slow), pytest.param({"model__name": "resnet50"}, 2, marks=pytest.mark.slow),
], ids=str)  # fmt: skip
def test_every_network_has_maps_and_its_two_parts_are_the_whole(options, classes):
    config = settings(**{"image__size": 16, "model__channels": (16, 16), "model__dense": (16,), **options})
    engine = engine_of(config, classes)
    images = np.random.default_rng(0).integers(0, 256, (3, *config.image.shape, 3), dtype=np.uint8)
    explainer = inference.Explainer(engine)
    maps = explainer.maps(images, [0, 1, classes - 1])
    assert explainer.reason == "" and maps.shape == images.shape[:3] and {*maps.max((1, 2))} <= {0, 1} and maps.max() == 1

    def whole(model, images):
        made = nnx.merge(engine.network.eval_def, model["params"], model["stats"])
        return made.head(made.features(images))

    exact = 1e-4 if engine.network.model.dtype == np.float32 else 0.05
    np.testing.assert_allclose(jax.jit(whole)(engine.model, images), engine.logits(images), rtol=exact, atol=exact)


def test_of_two_classes_each_has_the_map_that_speaks_for_it(seeing, with_disc):
    explainer = inference.Explainer(seeing._restored.engine)
    first, second = (explainer.maps(with_disc.pixels, [called] * 10) for called in (0, 1))
    assert all(likeness(a, b) < 0.3 for a, b in zip(first, second, strict=True))
    logits = np.array([[2.0], [-1.0]])
    np.testing.assert_allclose(log_odds(logits, np.array([1, 0])), [2, 1])
    three = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(log_odds(three, np.array([0, 2])), [0, np.log(4)], atol=1e-12)


class Blind(models.Layered):
    """A network without a convolution."""

    def __init__(self, outputs, section, *, preprocessing, dtype, ops, rngs):
        super().__init__(preprocessing, dtype, ops)
        self.outputs = nnx.Linear(3 * preprocessing.size**2, outputs, rngs=rngs)
        self.layers += (models.Layer("flatten", "flatten"), models.Layer("outputs", "dense", "outputs"))


class Hidden(Blind):
    """A network that does not compute its layers in turn."""

    def __call__(self, images, rngs=None):
        return super().__call__(images, rngs)


@pytest.mark.parametrize(("made", "options", "reason"), [
    (Blind, {}, "Blind has no convolution among its layers, or a __call__ of its own"), (Hidden, {}, "Hidden has no convolution"),
    (None, {"model__name": "resnet18"}, "of layer block4_2 one place is left; use a larger --config.image.size"),
])  # fmt: skip
def test_a_network_without_a_map_says_why(made, options, reason, monkeypatch):
    if made:
        monkeypatch.setitem(models.MODELS, "convnet", made)
    network = network_of(settings(image__size=8, **options), 2)
    explainer = inference.Explainer(inference.Engine(None, {}, runtime.mesh(1), network))
    assert explainer.reason.startswith(reason) and explainer.places == (0, 0)
    with pytest.raises(ValueError, match=reason[:20]):
        explainer.maps(np.zeros((1, 8, 8, 3), np.uint8), [0])


def test_several_networks_have_no_map(trained, seeing, tmp_path, monkeypatch):
    engine = dataclasses.replace(seeing._restored.engine, network=None)
    blind = inference.Classifier(dataclasses.replace(seeing._restored, engine=engine))
    with pytest.raises(DataError, match="explain cannot show where this network looks: several networks answer together"):
        blind.explain(discs(1)[0][0])
    monkeypatch.setattr(inference, "load", lambda *_, **__: blind)
    with pytest.raises(DataError) as error:
        predict(trained.workdir, [str(trained.config.data.path)], tmp_path / "p.csv", explain=tmp_path / "looks")
    assert "several networks answer together; leave out --explain" in one_line(error) and not (tmp_path / "p.csv").exists()


def test_files_that_cannot_be_read_are_one_line(seeing):
    with pytest.raises(DataError) as error:
        seeing.explain([discs(1)[0][0], b"nothing"])
    assert "image 2" in one_line(error)
    assert seeing.explain([]) == []


def test_predictions_have_a_picture_for_each_file(trained, tmp_path):
    folder, looks = tmp_path / "in", tmp_path / "looks"
    for i, image in enumerate(discs(35)[0]):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 30 + i % 3]).save(folder / str(i % 2) / f"same ä{i // 2}.png")
    (folder / "0" / "not.png").write_bytes(b"nothing")
    assert predict(trained.workdir, [str(folder)], tmp_path / "p.csv", explain=looks) == (35, 1)
    files, table = sorted(looks.iterdir()), (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(files) == 35 and len(table) == 36
    for file in files:
        number, _, stem = file.stem.partition("-")
        assert f"/{stem.replace('_', ' ')}.png" in table[int(number) - 1]
        with Image.open(file) as picture:
            assert max(picture.size) == 224
    with pytest.raises(DataError, match="is there and not empty; add to it with --overwrite"):
        predict(trained.workdir, [str(folder)], tmp_path / "other.csv", explain=looks)
    assert not (tmp_path / "other.csv").exists()
    before = files[0].read_bytes()
    files[0].write_bytes(b"older")
    predict(trained.workdir, [str(folder)], tmp_path / "other.csv", explain=looks, overwrite=True)
    assert files[0].read_bytes() == before and len(list(looks.iterdir())) == 35


def test_training_shows_the_split_that_is_judged_and_evaluation_any(trained, tmp_path):
    run = RunDirectory(shutil.copytree(trained.workdir, tmp_path / "run"))
    explained = run.read_evaluation("test").explained
    assert explained.places == (12, 12) and explained.reason == ""
    for look in explained.pictures:
        encoded = run.picture(look.file).read_bytes()
        assert look.sha256 == hashlib.sha256(encoded).hexdigest() and look.file.startswith("test-looks/")
    right = [look.label for look in explained.pictures if look.label == look.predicted]
    assert sorted(right) == ["disc"] * 3 + ["empty"] * 3
    assert any(look.agreement is not None for look in explained.pictures)
    assert run.read_evaluation("val").explained is None and not run.overlays("val").exists()
    evaluate(run.path, "val", overrides={"data.cache_dir": trained.config.data.cache_dir})
    assert len(list(run.overlays("val").iterdir())) == len(run.read_evaluation("val").explained.pictures)
    words = text(run.report)
    assert "Where it looks" in words and "12 × 12 places" in words and "Right answers of each class: 6 pictures" in words
    run.picture(explained.pictures[0].file).unlink()
    write_report(run)
    assert "1 picture of test-looks/ cannot be shown, the file is gone." in text(run.report)


def test_an_evaluation_without_a_map_says_so_once_and_in_the_report(trained, tmp_path, monkeypatch):
    run = RunDirectory(shutil.copytree(trained.workdir, tmp_path / "run"))
    monkeypatch.setattr(inference.explanation, "_places", lambda network: ((0, 0), "it is dark"))
    said = Said()
    evaluate(run.path, overrides={"data.cache_dir": trained.config.data.cache_dir}, progress=said)
    assert said.lines == ["test: no pictures of where the network looks: it is dark"]
    write_report(run)
    assert "Where it looks No pictures: it is dark." in text(run.report)
    assert json.loads(run.evaluation("test").read_text())["explained"]["pictures"] == []


@pytest.mark.parametrize(
    ("pictures", "images", "expected"), [(30, 20, 5), (3, 20, 3), (30, 1122, 22), (30, 10**6, 30), (0, 20, 0)]
)
def test_the_check_costs_no_more_than_the_evaluation(pictures, images, expected):
    found = checked(pictures, images)
    assert len(found) == expected and len(set(found)) == expected and all(0 <= i < max(pictures, 1) for i in found)
