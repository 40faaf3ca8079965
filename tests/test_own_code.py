"""The example of docs/own-code.md trains, evaluates and predicts."""

import re

import pytest

import cnnjax
from cnnjax.errors import ConfigError


@pytest.fixture
def example(repository, tmp_path):
    """The page's code as a file."""
    file = tmp_path / "my_file.py"
    page = (repository / "docs" / "own-code.md").read_text(encoding="utf-8")
    file.write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    return file


@pytest.mark.slow
def test_a_network_a_loss_and_an_augmentation_of_ones_own(example, cell_folder, tmp_path, without_pictures, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # its cache notes what a run of this user has used
    values = {"data.path": str(cell_folder), "data.cache_dir": str(tmp_path / "cache"), "image.size": 16, "train.epochs": 1}
    own = {"model.name": f"{example}:TinyNet", "train.loss": f"{example}:focal", "augment.custom": f"{example}:darken"}
    run = cnnjax.train(cnnjax.load_config("folder", values | own), tmp_path / "run")
    plain = cnnjax.train(cnnjax.load_config("folder", values | {"model.name": own["model.name"]}), tmp_path / "plain")
    assert run["parameters"] == plain["parameters"] == 3 * 9 * 16 + 16 + 16 + 1
    assert run["train"]["loss"] != plain["train"]["loss"]
    result = cnnjax.evaluate(tmp_path / "run", "test")
    assert result["images"] > 0
    image = next(cell_folder.rglob("*.png"))
    assert cnnjax.load(tmp_path / "run").predict([image])[0].error == ""
    example.write_text(example.read_text() + "\n# changed by somebody\n")
    with pytest.raises(ConfigError, match="which no run of yours has used as it is now"):
        cnnjax.load(tmp_path / "run")
    assert cnnjax.load(tmp_path / "run", trust_code=True).predict([image])[0].error == ""
