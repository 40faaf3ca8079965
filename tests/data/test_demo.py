"""The demo data set: reproducible, structured like the NLM set, and not solvable by a linear classifier."""

import io
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnjax.data import demo

NAME = re.compile(r"(Parasitized|Uninfected)/(C\d+)P\d+ThinF_IMG_(\d{8}_\d{6})_cell_\d+\.png")


def patient_of(id):
    return NAME.fullmatch(id)[2]


@pytest.fixture(scope="module")
def cells():
    """2,000 drawn cells: ids, PIL images, labels (1 = Parasitized) and patients."""
    names = demo.ids(0, 2000)
    images = [Image.open(io.BytesIO(demo.draw(0, name))) for name in names]
    labels = np.array([name.startswith("Parasitized/") for name in names])
    return names, images, labels, np.array([patient_of(name) for name in names])


@pytest.mark.parametrize("count", [80, 2000, 2001])
def test_ids_are_balanced_and_cover_all_patients(count):
    names = demo.ids(0, count)
    assert len(set(names)) == count and names == sorted(names)
    assert Counter(name.split("/")[0] for name in names)["Parasitized"] == count // 2
    assert len({patient_of(name) for name in names}) == 40
    # A cell's file name is unique without its class folder, as in the NLM archive.
    assert len({name.split("/")[1] for name in names}) == count


def test_patients_differ_in_size_and_classes():
    classes = defaultdict(Counter)
    for name in demo.ids(0, 2000):
        classes[patient_of(name)][name.split("/")[0]] += 1
    both = sum(len(counts) == 2 for counts in classes.values())
    assert 30 <= both < 40
    assert all(counts["Uninfected"] for counts in classes.values())
    totals = sorted(sum(counts.values()) for counts in classes.values())
    assert totals[-1] >= 4 * totals[0]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_cells(count):
    assert len(demo.ids(0, count)) == count


def test_ids_depend_on_the_seed_and_the_number_of_patients():
    assert demo.ids(3, 200) == demo.ids(3, 200) != demo.ids(4, 200)
    assert len({patient_of(name) for name in demo.ids(0, 200, patients=12)}) == 12


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="patients"):
        demo.ids(0, 10, patients=0)
    for id in ("Parasitized/cell_1.png", "Other/C101P62ThinF_IMG_20150918_151006_cell_1.png", "C101"):
        with pytest.raises(ValueError, match="not a demo id"):
            demo.draw(0, id)


def test_drawing_is_a_pure_function_of_seed_and_id(cells):
    names, images, _, _ = cells
    demo._patient.cache_clear()
    for k in range(0, 2000, 97)[::-1]:
        first = demo.draw(0, names[k])
        assert first == demo.draw(0, names[k]) != demo.draw(1, names[k])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(first))), np.asarray(images[k]))


def test_images_look_like_segmented_cells(cells):
    _, images, _, _ = cells
    assert {(image.format, image.mode) for image in images} == {("PNG", "RGB")}
    sizes = np.array([image.size for image in images])
    assert sizes.min() >= 46 and sizes.max() <= 200
    assert 100 <= np.median(sizes) <= 135 and sizes.std() > 15
    assert np.mean(sizes[:, 0] != sizes[:, 1]) > 0.8
    black = np.array([np.mean(np.asarray(image).max(axis=2) == 0) for image in images])
    assert black.min() > 0.1 and black.max() < 0.6


def test_stain_differs_more_between_patients_than_within(cells):
    _, images, _, patients = cells
    pixels = [np.asarray(image).reshape(-1, 3) for image in images]
    colour = np.array([p[p.any(axis=1)].mean(axis=0) for p in pixels])
    groups = [colour[patients == patient] for patient in np.unique(patients)]
    within = np.mean([group.var(axis=0) for group in groups], axis=0)
    between = np.var([group.mean(axis=0) for group in groups], axis=0)
    assert np.all(between > 2 * within)


def test_a_linear_classifier_stays_behind(cells):
    """Guards the purpose of the set: a convolutional network reaches 0.95 and more on the same split."""
    _, images, labels, patients = cells
    resized = [image.resize((32, 32), Image.Resampling.BILINEAR) for image in images]
    pixels = np.stack([np.asarray(image) for image in resized]).reshape(len(images), -1) / 255.0
    darkest = np.array([np.asarray(image)[np.asarray(image).any(axis=2)].min(axis=0) for image in images])
    for features, bound in ((pixels, 0.86), (darkest, 0.92)):
        scores = []
        for seed in range(3):
            held_out = np.isin(patients, np.random.default_rng(seed).permutation(np.unique(patients))[:12])
            linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
            scores.append(linear.fit(features[~held_out], labels[~held_out]).score(features[held_out], labels[held_out]))
        assert np.mean(scores) < bound
