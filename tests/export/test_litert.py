"""LiteRT: a file for phones, where TensorFlow is installed to convert it."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from training_tools import ROOT, child

import cnnjax
from cnnjax.runs import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("tensorflow", "ai_edge_litert")),
        reason="takes the extra litert",
    ),
]


@pytest.mark.parametrize("quantize", ["", "int8"])
def test_the_script_of_the_examples_gives_predicts_probabilities(plain, tmp_path, quantize):
    path, cells = tmp_path / "cells.tflite", cnnjax.load(plain.workdir)
    extra = [f"--quantize={quantize}"] if quantize else []
    done = child(["launch.py", "--mode=export", f"--workdir={plain.workdir}", f"--output={path}",
                  f"--config.data.cache_dir={plain.config.data.cache_dir}", *extra])  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = sorted(map(str, RunDirectory(plain.workdir).thumbnails("test").glob("*")))
    code = "import sys, runpy; sys.modules['cnnjax'] = None; runpy.run_path(sys.argv.pop(1))"
    script = str(ROOT / "examples" / "predict_litert.py")
    told = subprocess.run(
        [sys.executable, "-I", "-c", code, script, str(path), *images], capture_output=True, text=True, check=True
    )
    found = [json.loads(line)["probabilities"] for line in told.stdout.splitlines() if line.startswith("{")]
    wanted = [list(prediction.probabilities.values()) for prediction in cells.predict(images)]
    np.testing.assert_allclose(found, wanted, atol=0.2 if quantize else 1e-5)
