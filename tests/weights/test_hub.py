"""The Hugging Face Hub: a server on this machine speaks as it does, and its cache is a folder of the test."""

import hashlib
import http.server
import json
import re
import sys
import threading

import pytest
from training_tools import Said, one_line, settings
from weight_files import TINY, drawn, saved, tiny_network

from cnnjax import config as config_lib
from cnnjax import models, training, weights
from cnnjax.errors import ConfigError
from cnnjax.runs import RunDirectory

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = {"architecture": "tiny", "pretrained_cfg": {"input_size": [3, 72, 72], "interpolation": "bicubic"}}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub: HEAD with the commit and the digest, then GET."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        found = re.fullmatch(r"/(owner/net)/resolve/(main|v2)/(.+)", self.path)
        data = self.server.files.get(found[3]) if found else None
        self.send_response(404 if data is None else 200)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound" if found else "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET" and data:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server: `files` by name, and what was `asked`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked = {}, []
    for name, behind in (("ENDPOINT", ""), ("HUGGINGFACE_CO_URL_TEMPLATE", "/{repo_id}/resolve/{revision}/{filename}")):
        monkeypatch.setattr(constants, name, f"http://127.0.0.1:{server.server_port}{behind}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setitem(models.MODELS, "tiny", TINY)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.files["model.safetensors"] = saved(tmp_path / "m.safetensors", drawn()).read_bytes()
    server.files["config.json"] = json.dumps(CARD).encode()
    yield server
    server.shutdown()
    server.server_close()


def chosen(text, **overrides):
    return settings(model__name="tiny", model__weights=text, image__size="auto", image__resize="auto", **overrides)


def resolved(config, tmp_path, **options):
    return training.with_weights(config, RunDirectory(tmp_path / "run"), Said(), **options)


@pytest.mark.parametrize("text", ["hf:owner/net", "hf:owner/net@v2", "hf:owner/net:model.safetensors"])
def test_weights_of_a_repository_are_fetched_once(hub, tmp_path, text):
    config = resolved(chosen(text), tmp_path)
    assert (config.image.size, config.image.resize) == (72, "bicubic")
    matched, facts = weights.load(config, tiny_network())
    assert len(matched.arrays) == len(drawn()) - 2
    assert (facts.source, facts.file, facts.revision) == (text, "model.safetensors", COMMIT)
    assert facts.sha256 == hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert sum(command == "GET" and path.endswith("model.safetensors") for command, path in hub.asked) == 1


def test_what_is_in_the_cache_needs_no_network(hub, tmp_path, monkeypatch):
    import huggingface_hub.constants

    resolved(chosen("hf:owner/net"), tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    config = resolved(chosen("hf:owner/net"), tmp_path)
    assert config.image.size == 72 and len(weights.load(config, tiny_network())[0].arrays) and len(hub.asked) == asked


def test_describing_fetches_nothing(hub, tmp_path):
    config = resolved(chosen("hf:owner/net"), tmp_path, loads=False, fetch=False)
    assert config.image.size == 224 and weights.find(config, fetch=False) is None and hub.asked == []


def test_exploring_fetches_only_the_config(hub, tmp_path):
    assert resolved(chosen("hf:owner/net"), tmp_path, loads=False).image.size == 72
    assert not any(path.endswith(".safetensors") for _, path in hub.asked)


def test_a_repository_without_a_config_has_the_images_of_the_network(hub, tmp_path):
    del hub.files["config.json"]
    assert resolved(chosen("hf:owner/net"), tmp_path).image.size == 224


@pytest.mark.parametrize(("text", "said"), [
    ("hf:owner/net:other.safetensors", "has no file other.safetensors; name one, such as hf:owner/net:FILE.safetensors"),
    ("hf:owner/none", "does not exist, or takes a token that may read it: huggingface-cli login, or HF_TOKEN"),
])  # fmt: skip
def test_what_is_not_there_is_one_line(hub, tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        resolved(chosen(text), tmp_path)
    assert said in one_line(error)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_it_says_which_file_to_put_where(hub, tmp_path, monkeypatch, offline):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    hub.server_close()
    with pytest.raises(ConfigError) as error:
        resolved(chosen("hf:owner/net"), tmp_path)
    line = one_line(error)
    assert line.startswith("model.weights=hf:owner/net is not in the hub's cache and cannot be fetched (")
    assert line.endswith(
        "get model.safetensors of that repository on a machine with a network, and write --config.model.weights=FILE"
    )


def test_without_the_library_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", TINY)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ConfigError, match=r"takes huggingface_hub: pip install 'cnnjax\[hub\]'; or get model.safetensors"
    ) as error:
        resolved(chosen("hf:owner/net"), tmp_path)
    one_line(error)


def test_a_run_that_has_begun_asks_nobody(hub, tmp_path):
    config = resolved(chosen("hf:owner/net"), tmp_path)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.write_json(run.config, json.loads(config_lib.to_json(config)))
    asked = len(hub.asked)
    assert resolved(chosen("hf:owner/net"), tmp_path) == config and len(hub.asked) == asked
