"""Folders are classes, parts, copies or nothing, in shapes that people's sets have."""

import pytest

from cnnjax.data import layout


def understood(*folders: str, chosen=(), files: int = 3):
    return layout.understand(dict.fromkeys(folders, files), chosen)


def lines(found, place: str) -> list[str]:
    return [*layout.parts_line(found), *layout.left_out_lines(found, place)]


def splits(found) -> dict[str, tuple[str, str]]:
    return {folder: (place.name, place.split) for folder, place in found.places.items()}


@pytest.mark.parametrize(("name", "split"), [
    ("train", "train"), ("Training", "train"), ("seg_train", "train"), ("train2017", "train"), ("training_set", "train"),
    ("trainset", "train"), ("TrainImages", "train"), ("valid", "val"), ("Validation", "val"), ("dev", "val"),
    ("Test", "test"), ("testing-data", "test"), ("test1", "test"), ("flowers.test", "test"),
])  # fmt: skip
def test_usual_names_of_parts(name, split):
    assert layout.part_of(name)[0] == split


@pytest.mark.parametrize("name", ["cat", "trains", "attest", "train_or_test", "validated", "device", "contest", ""])
def test_other_names_are_no_parts(name):
    assert layout.part_of(name) is None


@pytest.mark.parametrize(("spelled", "root"), [
    (("train", "val", "test"), ""), (("Training", "Validation", "Testing"), ""), (("seg_train", "seg_dev", "seg_test"), "scenes/"),
    (("train_images", "valid_images", "test_images"), "a/b/"), (("flowers-train", "flowers-val", "flowers-test"), ""),
])  # fmt: skip
def test_parts_around_classes(spelled, root):
    found = understood(*(f"{root}{part}/{name}" for part in spelled for name in ("cat", "dog")))
    assert found.classes == ("cat", "dog") and found.above == root
    assert found.parts == dict(zip(spelled, ("train", "val", "test"), strict=True))
    assert splits(found) == {f"{root}{part}/{name}": (name, split)
                             for part, split in found.parts.items() for name in ("cat", "dog")}  # fmt: skip
    place = f"{root}{spelled[0]}/cat"
    assert found.places[place].letters == len(place) + 1


def test_a_folder_between_the_part_and_its_classes():
    found = understood(
        "seg_train/seg_train/sea", "seg_train/seg_train/ice", "seg_test/sea", "seg_test/ice", "seg_pred/seg_pred"
    )
    assert found.classes == ("ice", "sea")
    assert splits(found)["seg_train/seg_train/sea"] == ("sea", "train") and splits(found)["seg_test/sea"] == ("sea", "test")


def test_parts_within_classes():
    found = understood("cat/train", "cat/test", "dog/train", "dog/test")
    assert found.classes == ("cat", "dog") and found.parts == {"train": "train", "test": "test"}
    assert splits(found)["dog/test"] == ("dog", "test")


def test_a_part_without_class_folders_is_counted_and_named_with_what_to_type():
    found = layout.understand({"train/cat": 3, "train/dog": 3, "test": 20})
    assert found.classes == ("cat", "dog") and found.left_out == {"test": 20}
    assert lines(found, "pets") == [
        "the set brings its own parts: train/ for train",
        "20 files in test/ are in no class folder and left out; predict them with --mode=predict --input=pets/test",
    ]


@pytest.mark.parametrize("folders", [
    ("train", "car", "bus"),  # a vehicle
    ("train/steam", "car/red", "bus/red"),
    ("train/steam", "car", "bus"),
    ("test_positive/a", "test_negative/a"),
    ("cat/P1", "cat/P2", "dog/P3"),
    ("cat/front", "cat/side", "dog/front", "dog/side"),
])  # fmt: skip
def test_classes_that_only_look_like_parts(folders):
    found = understood(*folders)
    assert found.parts == {} and found.classes == tuple(sorted({folder.split("/")[0] for folder in folders}))
    assert {place.split for place in found.places.values()} == {""} and lines(found, "") == []


def test_other_folders_beside_parts_are_left_out_and_named():
    parts = [f"{part}/{name}" for part in ("train", "val", "test") for name in ("cat", "dog")]
    found = understood(*parts, "extra/cat", "extra/dog", "train_augmented/cat", "train_augmented/dog")
    assert found.classes == ("cat", "dog") and found.parts == {"train": "train", "val": "val", "test": "test"}
    assert found.left_out == {"extra": 6, "train_augmented": 6}
    assert "6 files in extra/ are in no class folder of a part and left out" in lines(found, "x")


def test_folders_that_stand_in_most_class_folders_may_be_the_classes():
    found = understood(*(f"P{i}/{kind}" for i in range(5) for kind in ("sick", "well")))
    assert found.classes == tuple(f"P{i}" for i in range(5)) and found.repeated == ("sick", "well")
    assert lines(found, "x") == ["folders sick, well stand in most class folders; if they are the classes, type "
                                 "--config.data.label='sick|well' --config.data.group='^[^/]+'"]  # fmt: skip


def test_classes_that_the_user_names_are_classes():
    found = understood("Training/a", "Testing/a", chosen=("Training", "Testing"))
    assert found.classes == ("Testing", "Training") and found.parts == {}


def test_a_copy_of_the_set_inside_itself_is_left_out_and_named():
    folders = ("cells/a", "cells/b", "cells/cells/a", "cells/cells/b")
    found = understood(*folders)
    assert found.above == "cells/" and found.classes == ("a", "b") and found.copies == ("cells",) and found.left_out == {}
    (line,) = lines(found, "x")
    assert "copy of the set" in line and "--config.data.classes=a,b,cells" in line
    assert understood(*folders, chosen=("a", "b", "cells")).classes == ("a", "b", "cells")


def test_files_beside_folders_are_counted_but_not_those_of_classes_that_were_not_chosen():
    found = layout.understand({"": 2, "cat": 3, "dog": 3, "cow": 3}, ("cat", "dog"))
    assert found.classes == ("cat", "cow", "dog") and found.left_out == {"": 2}
    assert lines(found, "x") == ["2 files beside the folders left out"]
