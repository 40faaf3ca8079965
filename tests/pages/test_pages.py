"""The pages: what they say comes from files, and a browser shows them without an error, a request or a clipped picture."""

import importlib
import json
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from training_tools import child, read_rows, settings, tiny

from cnnjax import runs
from cnnjax.augmentation import operations as augment
from cnnjax.data import dataset, splits
from cnnjax.errors import CheckpointError, Stopped
from cnnjax.pages import blocks as pages
from cnnjax.pages import report
from cnnjax.progress import Progress
from cnnjax.training import feeds as pipeline
from cnnjax.training import steps

train = importlib.import_module("cnnjax.commands.train").train
explore_module = importlib.import_module("cnnjax.commands.explore")
explore = explore_module.explore

AWKWARD = ("a <b>bold one", 'with "quotes"', "ümlaut & co")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def two(cell_folder, cache, tmp_path_factory):
    """A finished run on two classes, with augmentation that has a cost."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    config = tiny(cell_folder, cache, augment="cells", name="two", log__tensorboard=True)
    return SimpleNamespace(workdir=workdir, config=config, summary=train(config, workdir))


@pytest.fixture(scope="module")
def three(make_folder, cache, tmp_path_factory):
    """A finished run on three classes with names that HTML must escape; one file is no image."""
    folder = make_folder(tmp_path_factory.mktemp("data") / "three", AWKWARD, 24)
    (folder / AWKWARD[0] / "C1<i>not.png").write_bytes(b"not an image")
    workdir = tmp_path_factory.mktemp("runs") / "three"
    config = tiny(folder, cache, split__method="stratified", data__positive="", augment__mixup=0.4, data__max_bad_fraction=0.1,
                  name="three", optimizer__learning_rate=0.003)  # fmt: skip
    return SimpleNamespace(workdir=workdir, config=config, summary=train(config, workdir))


@pytest.fixture(scope="module")
def explored(two, three, tmp_path_factory):
    """Pages of both data sets, with everything switched on in one."""
    everything = dict(augment="strong", augment__noise=5.0, augment__blur=1.0, augment__stain=0.05, augment__turns=True,
                      augment__pad_crop=2, augment__channel_shift=9.0, augment__trivial_augment=True)  # fmt: skip
    out = tmp_path_factory.mktemp("explored")
    changed = {key.replace("__", "."): value for key, value in everything.items()}
    config = importlib.import_module("cnnjax.config").from_dict(two.config.to_dict(), changed)
    return SimpleNamespace(config=config, two=explore(config, out / "two"), three=explore(three.config, out / "three"))


@pytest.fixture(scope="module")
def compared(two, three):
    return report.compare_runs([two.workdir, three.workdir])


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def text(path):
    """The words of a page, tags and styles apart."""
    html = path.read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S)).split())


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_page_whole(browser, two, three, explored, compared, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for path in (two.workdir / "report.html", three.workdir / "report.html", compared, explored.two, explored.three):
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        assert said == [] and [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        for details in page.query_selector_all("details"):
            details.evaluate("e => e.open = true")
        seen = page.evaluate("""() => ({
            scroll: document.documentElement.scrollWidth,
            broken: [...document.images].filter(i => !i.complete || !i.naturalWidth || i.clientWidth < 40).length,
            images: document.images.length,
            flat: [...document.querySelectorAll('svg')].filter(s => s.clientWidth < 200 || s.clientHeight < 50).length,
            small: [...document.querySelectorAll('td, th, p, figcaption')].filter(
                e => parseFloat(getComputedStyle(e).fontSize) < 12).length,
            hidden: [...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth
                && getComputedStyle(t.parentElement).overflowX != 'auto').length,
            chart: Math.min(...[...document.querySelectorAll('.charts:not(.wide) svg')].map(s =>
                s.querySelector('text').getBoundingClientRect().height)),
            ground: getComputedStyle(document.body).backgroundColor})""")
        assert seen["scroll"] <= width, "the page scrolls sideways"
        assert (seen["broken"], seen["flat"], seen["small"], seen["hidden"]) == (0, 0, 0, 0)
        assert seen["images"] > 0 or path == compared
        assert seen["chart"] >= 9, "labels of charts are too small to read"
        assert (seen["ground"] == "rgb(255, 255, 255)") == (scheme == "light")
        page.close()
    context.close()


def test_pages_hold_everything_themselves(two, three, explored, compared):
    for path in (two.workdir / "report.html", three.workdir / "report.html", compared, explored.two, explored.three):
        html = path.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "@import" not in html and "<script" not in html
        assert not re.search(r"url\((?!#)", html)


def test_names_of_classes_and_files_are_escaped(three, explored):
    for path in (three.workdir / "report.html", explored.three):
        html = path.read_text(encoding="utf-8")
        assert "<b>bold" not in html and "<i>not" not in html and "a &lt;b&gt;bold one" in html
        assert "C1&lt;i&gt;not" in html, "the file that was left out is named"


def test_the_report_shows_the_numbers_of_the_files(two):
    words = text(two.workdir / "report.html")
    for split in ("train", "val", "test"):
        numbers = json.loads((two.workdir / "eval" / f"{split}.json").read_text())
        row = " ".join([split, str(numbers["images"]), *(f"{numbers[k]:.4f}" for k in ("loss", "accuracy", "auc"))])
        assert row in words
    summary = json.loads((two.workdir / "summary.json").read_text())
    assert f"{summary['parameters']:,} parameters" in words and summary["versions"]["jax"] in words
    assert f"kernels {summary['kernels']} precision float32" in words
    assert "No group is in two splits; 12 groups in all." in words
    assert "augment.rotation 45.0 0.0" in words and "augment.shear" not in words.split("The whole config")[0]
    for row in runs.RunDirectory(two.workdir).read_history():
        assert f"{row['epoch']} {row['step']} {row['loss']:.4f}" in words
    for part in ("augmentation", "training steps", "waiting for input", "compiling", "validation", "saving", "ROC"):
        assert part in words


def test_the_page_is_made_from_files_alone(two, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "moved")
    shutil.rmtree(workdir / "checkpoints")
    numbers = json.loads((workdir / "eval" / "test.json").read_text())
    numbers["accuracy"] = 0.1234
    (workdir / "eval" / "test.json").write_text(json.dumps(numbers))
    code = f"import sys; from cnnjax import report; report.write_report({str(workdir)!r}); assert 'jax' not in sys.modules"
    done = child(["-W", "error", "-c", code])
    assert done.returncode == 0, done.stderr
    assert "0.1234" in text(workdir / "report.html")


def test_a_page_that_cannot_be_written_is_one_line(two, three, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for make in (lambda: report.write_report(two.workdir, file / "page.html"),
                 lambda: report.compare_runs([two.workdir, three.workdir], file / "page.html")):  # fmt: skip
        with pytest.raises(CheckpointError, match="cannot write to .*file .*name another place with --output=FILE"):
            make()


def test_tensorboard_gets_a_fixed_batch_as_it_is_augmented(two):
    events = b"".join(path.read_bytes() for path in (two.workdir / "tensorboard").iterdir())
    assert events.count(b"augmented") == 3 and events.count(b"\x89PNG") == 3  # an image for each epoch


def test_explore_can_be_stopped(two, tmp_path):
    with pytest.raises(Stopped, match="the same command starts it again"):
        explore(two.config, tmp_path, stop=lambda: True)
    assert not (tmp_path / "explore.html").exists()


def test_the_network_is_shown_as_it_was_trained(two):
    rows = json.loads((two.workdir / "network.json").read_text())
    assert sum(row["parameters"] for row in rows) == two.summary["parameters"]
    words = text(two.workdir / "report.html")
    assert all(row["name"] in words for row in rows) and f"total {two.summary['parameters']:,}" in words


def test_mistakes_and_doubts_are_those_of_the_table(two):
    rows = read_rows(two.workdir / "eval" / "train.csv")
    numbers = json.loads((two.workdir / "eval" / "train.json").read_text())
    names = ("p_Parasitized", "p_Uninfected")
    best = {row["id"]: max(float(row[n]) for n in names) for row in rows}
    wrong = [row["id"] for row in rows if row["label"] != row["predicted"]]
    assert wrong
    shown = [look["id"] for look in numbers["mistakes"]]
    assert len(shown) == min(12, len(wrong)) and set(shown) <= set(wrong)
    assert [best[i] for i in shown] == sorted((best[i] for i in wrong), reverse=True)[: len(shown)]
    doubts = [best[look["id"]] for look in numbers["uncertain"]]
    assert len(doubts) == 12 and np.allclose(doubts, sorted(p for i, p in best.items() if i not in wrong)[:12])
    for look in numbers["mistakes"] + numbers["uncertain"]:
        assert abs(look["probability"] - best[look["id"]]) < 1e-12


def test_thumbnails_are_the_files_themselves_not_what_the_network_sees(two, cell_folder):
    look = json.loads((two.workdir / "eval" / "test.json").read_text())["uncertain"][0]
    with Image.open(two.workdir / "eval" / look["file"]) as thumbnail, Image.open(cell_folder / look["id"]) as original:
        assert thumbnail.size == original.size
        difference = np.abs(np.asarray(thumbnail.convert("RGB"), int) - np.asarray(original.convert("RGB"), int))
        assert difference.mean() < 8  # PNG, or JPEG


def test_images_that_have_vanished_are_shown_as_the_network_saw_them(two, cell_folder, cache, tmp_path):
    data = dataset.prepare(two.config, two.workdir, Progress(), freeze=False)
    lost = dataset.Dataset(**{**vars(data), "stream": lambda: iter(())})
    assert lost.originals([0, 1]) == {} and set(data.originals([0, 1])) == {0, 1}


def test_a_run_that_was_stopped_has_a_report_too(cell_folder, cache, tmp_path):
    config = tiny(cell_folder, cache)
    polls = iter(range(1000))
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop=lambda: next(polls) > 14)
    path = report.write_report(tmp_path / "run")
    assert "has not come to its end" in text(path) and "Test in detail" not in text(path)


def test_a_directory_without_a_run_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run; train first, or name a run directory with --workdir"):
        report.write_report(tmp_path)
    with pytest.raises(CheckpointError, match="two or more different run directories"):
        report.compare_runs([tmp_path, tmp_path])


def test_groups_on_two_sides_are_warned_of(two, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "leaky")
    rows = list(splits.read(workdir / "splits.csv"))
    moved = next(row for row in rows if row[3] == "test")  # other images of its group stay where they were
    changed = [(*row[:3], "train" if row is moved else row[3]) for row in rows]
    runs.write_rows(workdir / "splits.csv", ("id", "label", "group", "split"), changed)
    assert re.search(r"1 group in more than one split, such as C\d+", text(report.write_report(workdir)))


def test_runs_are_laid_side_by_side(two, three, compared):
    words = text(compared)
    assert compared == two.workdir.parent / "compare-two-three.html"
    accuracy = (f"{run.summary['test']['accuracy']:.4f}" for run in (two, three))
    assert " ".join(["test accuracy", *accuracy]) in words
    assert "split.method grouped stratified" in words and "augment.mixup 0.0 0.4" in words and "image.size" not in words
    assert "not judged on the same images" in words


def test_training_curves_of_mixed_images_carry_a_warning(two, three):
    assert "do not compare" in text(three.workdir / "report.html")
    assert "do not compare" not in text(two.workdir / "report.html")


def test_explore_counts_what_the_split_holds(two, explored):
    data = dataset.prepare(two.config, two.workdir, Progress(), freeze=False)
    words = text(explored.two)
    for label, name in enumerate(data.classes):
        counts = [int((data.labels[data.splits[s]] == label).sum()) for s in splits.NAMES]
        assert " ".join([name, *map(str, counts), str(sum(counts))]) in words
    assert "12 groups" in words and "8 to 8 images" in words and "PNG RGB 96" in words


def test_explore_writes_each_picture_as_png(explored):
    folder = explored.two.parent / "explore"
    names = {path.stem for path in folder.glob("*.png")}
    assert {"classes", "groups", "width", "height", "aspect", "photos-Parasitized", "seen-Uninfected", "channels", "means",
            "colours-Parasitized", "first-batch", "augmented-Uninfected", "alone-rotation", "alone-stain",
            "processing-Parasitized"} <= names  # fmt: skip
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 100


def test_explore_changes_nothing_that_a_run_depends_on(explored):
    assert sorted(path.name for path in explored.two.parent.iterdir()) == ["explore", "explore.html"]


def test_explore_shows_the_tensors_of_step_0(explored, monkeypatch, tmp_path):
    """The pictures of the first batch against what a training step of this config hands to the network."""
    drawn = {}
    monkeypatch.setattr(explore_module._Page, "_photos", lambda self, name, title, photos, *rest, **options:
                        drawn.setdefault(name, photos))  # fmt: skip
    config = explored.config
    data = dataset.prepare(config, tmp_path, Progress(), freeze=False)
    explore_module._Page(config, data, tmp_path).augmentation()
    batch = pipeline.TrainBatches(data.images, data.labels, data.splits["train"], batch_size=config.data.batch_size,
                                  seed=config.seed)[0]  # fmt: skip
    shown = jax.jit(lambda step, batch: steps.training_images(step, batch, augment_config=config.augment, seed=config.seed))
    images, targets = shown(np.int32(0), batch)
    for i, photo in enumerate(drawn["first-batch"]):
        assert np.abs(photo.pixels.astype(float) - np.asarray(images[i])).max() <= 0.5001
        assert photo.caption == data.classes[int(targets.labels[i])]
    assert len(drawn["first-batch"]) == config.data.batch_size
    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 1), 0))[0]
    numbers = augment.draw(key, config.data.batch_size, config.augment)
    assert numbers["rotation"].shape == (config.data.batch_size,)
    assert {f"alone-{name}" for name in augment.extremes(config.augment)} <= drawn.keys()


def test_every_operation_that_is_on_is_shown_alone_and_does_something():
    on = dict(flip_horizontal=True, flip_vertical=True, turns=True, rotation=30.0, zoom=0.2, stretch=0.2, shear=10.0, shift=0.1,
              crop_area=0.5, pad_crop=3, brightness=0.2, contrast=0.2, saturation=0.3, grey=0.5, hue=0.1, gamma=0.3, stain=0.1,
              channel_shift=20.0, blur=1.5, noise=9.0, erase=0.5, cutout=0.4)  # fmt: skip
    config = settings(**{f"augment__{key}": value for key, value in on.items()}).augment
    shown = augment.extremes(config)
    assert shown.keys() == on.keys()
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    for name, ends in shown.items():
        for label, numbers in ends:
            out = np.asarray(augment.apply(image, numbers, config, jax.random.key(0)))
            assert np.abs(out - image).mean() > 0.5, (name, label)


def test_explore_warns_of_what_spoils_a_result(make_folder, cache, tmp_path):
    folder = make_folder(tmp_path / "uneven", ("many", "few"), 30, size=(60, 24))
    for path in sorted((folder / "few").iterdir())[7:]:
        path.unlink()
    config = tiny(folder, cache, split__method="stratified", data__positive="", image__size=40)
    words = text(explore(config, tmp_path / "out"))
    assert "The classes are uneven: many has 30 images, few 7" in words
    assert "are distorted by more than a quarter" in words and "are smaller than the 40 pixels" in words
    assert "groups in more than one split" in words
    assert "Augmentation is off" in words


def test_curves_of_one_epoch_are_marked_with_whole_epochs():
    from cnnjax.pages import plots

    row = {"epoch": 1, "step": 8, "val_accuracy": 0.5, "accuracy": 0.5}
    axes = plots.curves({"run": [row]}, "accuracy", {"run": 8}).axes[0]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_tables_shade_and_fold(tmp_path):
    table = pages.Table(("a", "b"), [("x", "1")], shades=[[0.5]])
    folded = pages.Table(("c",), [("<y>",)], folded="more & more")
    pages.write(tmp_path / "page.html", "t <1>", "s", [pages.Section("one", [table, folded])])
    html = (tmp_path / "page.html").read_text()
    assert "0.38" in html and "more &amp; more" in html and "&lt;y&gt;" in html and "t &lt;1&gt;" in html


@pytest.mark.slow
def test_the_command_line_makes_pages(two, three, cache, tmp_path):
    workdir = shutil.copytree(two.workdir, tmp_path / "run")
    (workdir / "report.html").unlink()
    done = child(["launch.py", "--mode=report", f"--workdir={workdir}"])
    assert done.returncode == 0 and f"written  {workdir}/report.html" in done.stdout and (workdir / "report.html").exists()
    page = tmp_path / "both.html"
    done = child(["launch.py", "--mode=report", f"--compare={workdir},{three.workdir}", f"--output={page}"])
    assert done.returncode == 0 and page.exists()
    arguments = ["--mode=explore", "--config=configs/malaria.py:demo", "--config.data.demo_cells=60", "--config.augment=light",
                 f"--config.data.cache_dir={cache}", f"--workdir={tmp_path / 'demo'}"]  # fmt: skip
    done = child(["launch.py", *arguments])
    assert done.returncode == 0 and (tmp_path / "demo" / "explore.html").exists()
    assert f"--workdir={tmp_path / 'demo'} --config.data.demo_cells=60 --config.augment=light" in done.stdout


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--mode=report"], "needs --workdir=DIR, a run directory, or --compare=runs/a,runs/b"),
        (["--mode=report", "--workdir=nowhere"], "nowhere holds no run; train first"),
        (["--mode=report", "--compare=one"], "--compare needs two or more different run directories"),
        (["--mode=report", "--compare=one,two"], "one holds no run"),
        (["--mode=report", "--workdir=x", "--config.seed=1"], "leave out --config"),
        (["--mode=explore", "--config=configs/malaria.py:demo", "--workdir=/dev/null/x"], "cannot write to /dev/null/x"),
        (["--mode=explore"], "--mode=explore needs --config=FILE"),
        (["--mode=explore", "--config=configs/folder.py", "--config.data.path=nowhere"], "no such folder or archive"),
        (["--mode=explore", "--config=configs/malaria.py:demo", "--config.augment=lite"], "did you mean 'light'?"),
    ],
)
def test_wrong_commands_are_one_line(arguments, line):
    done = child(["launch.py", *arguments])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line in done.stderr and len(done.stderr.splitlines()) == 1
