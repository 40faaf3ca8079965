"""`Preprocessing`: made from a section, stored as JSON, read back."""

import dataclasses
import json
import pickle

import pytest

from cnnjax.config import Preprocessing, default
from cnnjax.errors import ConfigError

OLD = {
    "size": 32,
    "resize": "nearest",
    "colour": "RGB",
    "scale": 1 / 255,
    "zca": True,
}  # of checkpoints before library, version


def test_it_takes_what_the_image_section_says():
    image = default().image
    image.size, image.resize, image.zca = 48, "pad", True
    made = Preprocessing.of(image, library="Pillow", version="12.0")
    assert (made.size, made.resize, made.zca, made.library, made.version) == (48, "pad", True, "Pillow", "12.0")
    assert not made.is_standardized


def test_it_survives_json_and_pickling():
    made = Preprocessing(size=32, resize="pad", mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.2), library="Pillow")
    assert Preprocessing.from_dict(json.loads(json.dumps(made.to_dict()))) == made == pickle.loads(pickle.dumps(made))
    assert hash(made) == hash(dataclasses.replace(made)) and made.is_standardized


def test_an_old_checkpoint_has_the_defaults_for_what_it_does_not_say():
    assert Preprocessing.from_dict(OLD) == Preprocessing(size=32, resize="nearest", zca=True)


@pytest.mark.parametrize(("change", "message"), [({"colour": "BGR"}, "RGB only"), ({"gamma": 2.2}, "has gamma, which")])
def test_what_this_version_cannot_make_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict({**OLD, **change})


def test_only_what_changes_the_decoded_pixels_is_in_a_caches_key():
    made = Preprocessing(size=32, resize="pad")
    for field in ("scale", "mean", "deviation", "zca"):
        assert field not in made.pixels
    assert dataclasses.replace(made, version="2").pixels != made.pixels


def test_another_library_is_told_where_both_are_known():
    old, new = (Preprocessing(size=32, resize="pad", library="Pillow", version=v) for v in ("11", "12"))
    assert "Pillow 11" in old.maker_differs(new) and "Pillow 12" in old.maker_differs(new)
    assert old.maker_differs(old) == "" == Preprocessing.from_dict(OLD).maker_differs(new)
