"""Reasons to doubt an accuracy."""

from cnnjax.metrics import doubts


def evaluation(*rows, classes=("sick", "well")):
    return {"classes": classes, "confusion": [list(row) for row in rows]}


GOOD = evaluation((45, 5), (4, 46))


def test_even_classes_that_are_told_apart_raise_none():
    assert doubts({"train": GOOD, "val": GOOD, "test": GOOD}) == [] == doubts({}) == doubts({"train": GOOD})


def test_the_largest_class_is_compared_with_where_classes_are_uneven():
    (line,) = doubts({"test": evaluation((6, 4), (2, 88))})
    assert line == ("test: always saying well would have accuracy 0.9000, this network has 0.9400; the mean over classes (balanced "
                    "accuracy) is 0.7889")  # fmt: skip


def test_a_class_that_is_never_said_is_named():
    lines = doubts({"val": evaluation((0, 10), (0, 90))})
    assert lines[0].startswith("val: always saying well would have accuracy 0.9000, this network has 0.9000")
    assert "val: no image is ever called sick (10 images); the accuracy says nothing about that" in lines[1]


def test_a_class_without_images_is_not_missed():
    found = evaluation((50, 0, 0), (5, 45, 0), (0, 0, 0), classes=("a", "b", "c"))
    assert doubts({"test": found}) == ["test: always saying a would have accuracy 0.5000, this network has 0.9500; the mean over classes "
                                       "(balanced accuracy) is 0.9500"]  # fmt: skip


def test_training_images_known_by_heart_with_chance_elsewhere_are_told():
    lines = doubts({"train": evaluation((50, 0), (0, 50)), "test": evaluation((25, 25), (25, 25))})
    assert "known by heart (accuracy 1.0000), and test is no better than always saying sick" in lines[-1]
