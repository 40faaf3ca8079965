"""Answers of a server: the same as those of `predict`, in every way that images can be sent."""

import base64
import json

import numpy as np
import pytest
from serving_tools import CLASSES, ask, bright, form, png, serving, told

import cnnjax
from cnnjax import inference, kernels
from cnnjax.serving import of_classifier, of_exported


@pytest.fixture(scope="module")
def server():
    with serving(files=4, bytes=200_000, pixels=10_000) as service:
        yield service


@pytest.fixture(scope="module")
def pictures(cell_folder):
    return [path.read_bytes() for path in sorted(cell_folder.rglob("*.png"))[::16]]


def test_a_run_answers_as_predict_does(plain, pictures):
    cells = cnnjax.load(plain.workdir)
    with serving(lambda: of_classifier(cells, "runs/my cells")) as service:
        body, kind = form(*((f"{i}.png", data) for i, data in enumerate([*pictures, b"garbage"])))
        status, tree = told(service, "/predict", body, content_type=kind)
        assert status == 200 and tree["predictions"][-1] == {"name": f"{len(pictures)}.png", "error": "not an image"}
        wanted = cells.predict(pictures)
        for found, own in zip(tree["predictions"], wanted, strict=False):
            assert found["predicted"] == own.predicted and found["probabilities"] == pytest.approx(
                own.probabilities, abs=1e-6
            )
            assert found.get("unlike") == own.unlike
        assert tree["model"] == {"name": "my-cells", "version": service.state.served.version, "positive": cells.classes[cells.positive],
                                 "threshold": cells.threshold}  # fmt: skip
        status, tree = told(service, "/predict?explain=1", pictures[0])
        assert base64.b64decode(tree["predictions"][0]["places"].partition(",")[2]).startswith(b"\x89PNG")
        assert of_classifier(cells, "x").version == service.state.served.version


def test_an_exported_file_answers_as_its_run_does(plain, pictures, tmp_path):
    made = cnnjax.load(plain.workdir)
    served = []
    for ending in ("onnx", "stablehlo"):
        made.export(tmp_path / f"cells.{ending}")
        served.append(of_exported(inference.open_exported(tmp_path / f"cells.{ending}"), "cells"))
    pixels = served[0].decode(pictures[:3])[0]
    for one in served:
        np.testing.assert_allclose(one.answers(pixels)[0], made.read(pixels[0])[0], atol=1e-5)
        assert one.answers(pixels)[1].tolist() == made.read(pixels[0])[1].tolist()
        assert (
            one.version == of_classifier(made, "x").version and one.version.startswith(f"{made.step}-") and one.seen is None
        )


@pytest.mark.parametrize(("seconds", "threads"), [(0, 1), (0.001, None)])
def test_a_tiny_network_leaves_the_processors_to_the_requests(seconds, threads, monkeypatch):
    chosen = []
    monkeypatch.setattr(kernels, "limit_threads", lambda most=None: chosen.append(most))

    monkeypatch.setattr("cnnjax.serving.served._fastest", lambda answers, inputs: seconds)
    with serving(bright):
        assert chosen[-1] == threads and 1 in chosen
    assert chosen[-1] is None  # the process may train next


def test_raw_bytes_forms_and_json_give_the_same(server):
    status, raw = told(server, "/predict", png(200))
    assert status == 200 and raw["predictions"] == [
        {
            "predicted": CLASSES[1],
            "probability": 200 / 255,
            "probabilities": {CLASSES[0]: 1 - 200 / 255, CLASSES[1]: 200 / 255},
            "unlike": 0.0,
        }
    ]
    text = base64.b64encode(png(200)).decode()
    for body in (
        {"images": [text]},
        {"image": text},
        {"image": f"data:image/png;base64,{text}"},
        {"image": text.replace("+", "-").rstrip("=")},
        {"image": f"{text[:20]}\r\n{text[20:]}\n"},
    ):
        assert told(server, "/predict", body) == (200, raw)
    body, kind = form(("a.png", png(200)), ("b.png", png(10)))
    status, two = told(server, "/predict", body, content_type=kind)
    assert [(p["name"], p["predicted"]) for p in two["predictions"]] == [("a.png", CLASSES[1]), ("b.png", CLASSES[0])]


def test_an_image_unlike_those_of_the_training_is_warned_of(server):
    found = told(server, "/predict", png(255))[1]["predictions"][0]
    assert found["unlike"] == 9 and "do not rely" in found["warning"]


@pytest.mark.parametrize(("body", "kind", "status", "why"), [
    (b"garbage", "image/png", 422, "not an image"),
    (b"", "image/png", 400, "the body is empty"),
    (png()[:45], "", 422, "damaged"),
    (png(size=101), "", 422, "101x101 pixels, more than 10,000"),
    (b"{", "application/json", 400, "not JSON"),
    (b"[" * 100_000, "application/json", 400, "not JSON"),
    (b'{"images": 3}', "application/json", 400, "has no images"),
    (b'{"images": []}', "application/json", 400, "no image"),
    (b'{"images": [3]}', "application/json", 400, "base64"),
    (b'{"images": ["%%%"]}', "application/json", 400, "base64"),
    (b'{"images": ["/etc/passwd"]}', "application/json", 422, "not an image"),
    (json.dumps({"images": ["aaaa"] * 5}).encode(), "application/json", 413, "5 images in one request, more than 4"),
    (form(("a", b"x"))[0][:-9], form()[1], 400, "cut short"),
    (b"--xyz\r\n", "multipart/form-data", 400, "no boundary"),
    (form(("a", b"x"))[0].replace(b"; filename=\"a\"", b""), form()[1], 400, "'images' of the form is not a file"),
    (b"x" * 200_001, "", 413, "more than 200,000 bytes"),
    (png((1, 2, 3)), "", 500, "the network has failed (no memory)"),
])  # fmt: skip
def test_what_cannot_be_answered_is_one_line(server, body, kind, status, why):
    found, tree = told(server, "/predict", body, **({"content_type": kind} if kind else {}))
    assert found == status and why in tree["error"] and len(tree["error"].splitlines()) == 1
    assert told(server, "/predict", png())[0] == 200


@pytest.mark.parametrize("query", ["explian=1", "explain=yes", "explain=1&size=3"])
def test_an_address_that_asks_for_something_else_is_refused(server, query):
    found, tree = told(server, f"/predict?{query}", png())
    assert found == 400 and query in tree["error"] and "explain=1" in tree["error"]


def test_the_open_inference_protocol(server):
    assert told(server, "/v2")[1]["name"] == "cnnjax"
    here, served = "/v2/models/bright", server.state.served
    for path in (here, f"{here}/versions/{served.version}"):
        assert told(server, path)[1]["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
    assert told(server, f"{here}/ready") == (200, {"name": "bright", "ready": True})
    assert told(server, "/v2/models/other")[0] == 404
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 3], "data": [0] * 192 + [204] * 192}
    status, tree = told(server, f"{here}/infer", {"id": "7", "inputs": [tensor]})
    assert status == 200 and tree["id"] == "7" and tree["model_version"] == served.version
    outputs = {output["name"]: output for output in tree["outputs"]}
    assert outputs["probabilities"]["data"] == pytest.approx([1, 0, 0.2, 0.8]) and outputs["probabilities"]["shape"] == [
        2,
        2,
    ]
    assert outputs["predicted"]["data"] == list(CLASSES)
    files = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png()).decode()]}
    status, tree = told(server, f"{here}/infer", {"inputs": [files], "outputs": [{"name": "predicted"}]})
    assert [output["data"] for output in tree["outputs"]] == [[CLASSES[1]]]
    for wrong in ({}, {"inputs": [{}]}, {"inputs": [{**tensor, "shape": [2, 8, 8, 4]}]}, {"inputs": [{**tensor, "data": [0.5] * 384}]},
                  {"inputs": [{**tensor, "data": [256] * 384}]}, {"inputs": [{**tensor, "shape": [3, 8, 8, 3]}]},
                  {"inputs": [{**tensor, "datatype": "FP32"}]}, {"inputs": [tensor], "outputs": [{"name": "x"}]}):  # fmt: skip
        status, tree = told(server, f"{here}/infer", wrong)
        assert status == 400 and len(tree["error"].splitlines()) == 1
    assert told(server, f"{here}/infer", {"inputs": [{**tensor, "shape": [9, 8, 8, 3]}]})[0] == 413


def test_a_network_that_shows_no_places_says_so_and_answers_that_are_not_finite_are_not_sent():
    def broken(inputs):
        return np.full((len(inputs[0]), 2), np.nan), np.zeros(len(inputs[0]), int), [None] * len(inputs[0])

    with serving(lambda: bright(seen=None)) as service:
        assert "does not show" in told(service, "/predict?explain=1", png())[1]["error"]
    with serving(lambda: bright(answers=broken)) as service:
        assert told(service, "/predict", png()) == (500, {"error": "the network's answer is not finite"})


def test_every_address_of_the_document_answers_and_its_references_lead_somewhere(server):
    spec = told(server, "/openapi.json")[1]
    for path, methods in spec["paths"].items():
        if "get" in methods:
            assert told(server, path)[0] == 200 if path != "/metrics" else ask(server, path)[0] == 200, path
        else:
            assert ask(server, path, b"")[0] in (400, 403), path
    text = json.dumps(spec)
    assert {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]} <= spec["components"][
        "schemas"
    ].keys()
    page = ask(server, "/docs")[2].decode()
    assert (
        all(path in page for path in spec["paths"])
        and "http" not in page.replace("https://example", "").partition("<pre>")[0]
    )


def test_no_file_of_the_machine_is_an_address(server):
    for path in (
        "/../../etc/passwd",
        "/page.html",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/served.py",
        "/page.css/../served.py",
    ):
        status, _, body = ask(server, path)
        assert status == 404 and b"root" not in body
    assert ask(server, "/predict")[0] == 405 and ask(server, "/health", b"")[0] == 405
