"""Several runs on one page."""

import json
import shutil

import numpy as np
from page_tools import text

import cnnjax
from cnnjax import metrics, pages


def test_runs_are_laid_side_by_side(two, three, compared):
    words = text(compared)
    assert compared == two.workdir.parent / "compare-two-three.html"
    accuracy = (f"{run.summary['test']['accuracy']:.4f}" for run in (two, three))
    assert " ".join(["test accuracy", *accuracy]) in words
    assert "Runs two and three side by side." in words
    assert "split.method grouped stratified" in words and "augment.mixup 0.0 0.4" in words and "image.size" not in words
    assert "not judged on the same images" in words


def test_a_metric_more_is_on_screen_in_json_in_the_report_and_in_the_comparison(two, three, monkeypatch, tmp_path):
    def margin(p):
        return float(np.mean(p.called == p.labels) - np.bincount(p.labels).max() / len(p.labels))

    monkeypatch.setitem(metrics.METRICS, "gain", metrics.Metric("gain over the largest", margin, tile=True))
    copies = [shutil.copytree(run.workdir, tmp_path / run.config.name) for run in (two, three)]
    values = []
    for workdir in copies:
        result = cnnjax.evaluate(workdir, "test")
        values.append(f"{result['gain']:.4f}")
        screen = pages.details_text(result).splitlines()
        assert screen[0].endswith("gain over the largest") and screen[1].endswith(values[-1])
        assert json.loads((workdir / "eval" / "test.json").read_text())["gain"] == result["gain"]
        words = text(cnnjax.write_report(workdir))
        assert f"{result['gain']:.3f} test gain over the largest" in words and f"test {result['images']}" in words
    assert " ".join(["test gain over the largest", *values]) in text(cnnjax.compare_runs(copies))
