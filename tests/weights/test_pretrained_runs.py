"""Runs that begin with published weights: what they keep of them, and that they need them once."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from training_tools import Said
from weight_files import TINY, drawn, saved

import cnnjax
from cnnjax import models
from cnnjax.commands.describe import describe
from cnnjax.commands.train import train
from cnnjax.errors import ConfigError, Stopped
from cnnjax.runs import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def config(make, tmp_path, monkeypatch):
    """Returns the config of a run that begins with a file and hardly learns."""
    monkeypatch.setitem(models.MODELS, "tiny", TINY)
    path = saved(tmp_path / "w.safetensors", drawn(size=16))
    return make(
        train__epochs=2, model__name="tiny", model__weights=str(path), optimizer__learning_rate=1e-12, train__ema_decay=0.9
    )


@pytest.mark.slow
def test_a_run_keeps_the_facts_and_needs_the_file_once(config, tmp_path):
    said, asked = Said(), iter(range(100))
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", progress=said, stop=lambda: next(asked) > 6)
    taken = f"{len(drawn()) - 2} of {len(drawn())} arrays"
    line = next(line for line in said.lines if "begins with the weights of" in line)
    assert line.endswith(f"w.safetensors (timm names them): {taken}; new are outputs/bias, outputs/kernel")
    (tmp_path / "w.safetensors").unlink()
    summary = train(config, tmp_path / "run").summary
    assert summary.weights.file == "w.safetensors" and summary["weights"]["new"] == ["outputs/bias", "outputs/kernel"]
    assert RunDirectory(tmp_path / "run").read_summary() == summary
    classifier = cnnjax.load(tmp_path / "run")
    assert classifier.preprocessing.mean == (0.485, 0.456, 0.406) and classifier.preprocessing.size == 16
    found = {
        ".".join(path): leaf
        for path, leaf in traverse_util.flatten_dict(jax.device_get(classifier.params["params"])).items()
    }
    np.testing.assert_allclose(found["conv1.kernel"], drawn(size=16)["conv1.weight"].transpose(2, 3, 1, 0), atol=1e-8)
    assert "SHA-256" in summary.weights.text and str(tmp_path) not in summary.weights.text
    assert cnnjax.evaluate(tmp_path / "run", "test")["loss"] == pytest.approx(summary.test["loss"], rel=1e-4)


def test_describing_tells_what_would_be_taken(config, tmp_path):
    (tmp_path / "run").mkdir()  # where the picture goes
    line = next(line for line in describe(config, tmp_path / "run").splitlines() if line.startswith("weights: "))
    assert line.startswith(f"weights: {len(drawn()) - 2} of {len(drawn())} arrays are those of w.safetensors (SHA-256 ")


def test_weights_that_do_not_fit_are_refused_before_an_image_is_decoded(make, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", TINY)
    arrays = drawn(size=16)
    arrays.pop("bn1.bias")
    path = saved(tmp_path / "w.safetensors", arrays)
    config = make(model__name="tiny", model__weights=str(path), data__cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="it lacks bn1.bias"):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "cache" / "decoded").rglob("*")) and not RunDirectory(tmp_path / "run").is_run()
