"""Pictures of more than 8 bits keep their range, which a run finds, says and keeps."""

import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from training_tools import Said, one_line, settings

import cnnjax
from cnnjax.commands.train import train
from cnnjax.data import high_bits, images
from cnnjax.errors import ConfigError, DataError

RAMP = (np.arange(48)[:, None] + 64 * np.arange(64)).astype(np.uint16)  # 0 to 4079, as a scanner of 12 bits writes


def encoded(values, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_levels_decide_black_and_white(kind):
    out = images.decode(encoded(RAMP, kind), (0, 4079))
    np.testing.assert_array_equal(out[..., 0], np.floor(RAMP * (255 / 4079) + 0.5))
    assert (
        images.decode(encoded(RAMP, kind), (1000, 2000)).min() == 0
        and images.decode(encoded(RAMP, kind), (1000, 2000)).max() == 255
    )
    assert images.decode(encoded(RAMP, kind)).max() == 15, "without levels the high byte, as of 16 bits"


def test_the_levels_of_a_file_are_among_its_facts_and_a_dead_pixel_is_not():
    spoiled = RAMP.copy()
    spoiled[3, 5], spoiled[7, 7] = 65535, 0
    for values in (RAMP, spoiled):
        facts = images.decode_resized(encoded(values), 16, "bilinear")[1]
        assert (facts["mode"], float(facts["low"]), float(facts["high"])) == (
            "I;16",
            pytest.approx(3, abs=1),
            pytest.approx(4076, abs=1),
        )
    assert images.decode_resized(encoded(np.zeros((8, 8, 3), np.uint8)), 8, "bilinear")[1]["low"] == ""


def test_signed_and_floating_values_have_levels():
    values = np.linspace(-1000, 3000, 32 * 32).reshape(32, 32)
    signed = images.decode(encoded(values.astype(np.int32), "TIFF"), (-1000, 3000))
    floating = images.decode(encoded(values.astype(np.float32), "TIFF"), (-1000, 3000))
    assert signed.min() == 0 and signed.max() == 255 and abs(signed.astype(int) - floating).max() <= 1
    with pytest.raises(images.ImageError, match="name their black and white, as in --config.image.range=0,1"):
        images.decode(encoded(values.astype(np.float32), "TIFF"))
    values[0, 0] = np.nan
    with pytest.raises(images.ImageError, match="not numbers"):
        images.decode(encoded(values.astype(np.float32), "TIFF"), (0, 1))


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_colours_of_16_bits_in_tiff_have_levels_too(options):
    values, file = np.random.default_rng(0).integers(0, 4096, (20, 30, 3)).astype(np.uint16), io.BytesIO()
    planes = np.moveaxis(values, -1, 0) if "planarconfig" in options else values
    tifffile.imwrite(file, planes, photometric="rgb", **options)
    np.testing.assert_array_equal(images.decode(file.getvalue(), (0, 4095)), np.floor(values * (255 / 4095) + 0.5))
    assert images.decode(file.getvalue()).max() == 15
    facts = images.decode_resized(file.getvalue(), 8, "bilinear")[1]
    assert facts["mode"] == "RGB;16" and 0 <= float(facts["low"]) < 20 and 4075 < float(facts["high"]) <= 4095


def test_one_level_only():
    assert high_bits.extremes(np.full((3, 3), 7)) == (7.0, 7.0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Grey PNG files of 16 bits that hold 12: bright or dark spots on grey, of no use where only the high byte is left."""
    root, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for i in range(60):
        values = rng.integers(1400, 1700, (24, 24))
        values[8:16, 8:16] += (300, -300)[i % 2]
        values[0, :2] = 0, 4095  # so that all files have one range
        own = root / ("bright", "dark")[i % 2]
        own.mkdir(exist_ok=True)
        Image.fromarray(values.astype(np.uint16)).save(own / f"{i:03}.png")
    return root


def scanned(scans, cache, **options):
    return settings(**{"data__path": str(scans), "data__cache_dir": str(cache), "image__size": 24, "model__channels": (8,),
                       "model__dense": (16,), "train__epochs": 30, "optimizer__learning_rate": 0.003, "data__batch_size": 8, **options})  # fmt: skip


@pytest.mark.slow
def test_a_run_finds_the_range_says_it_keeps_it_and_predicts_with_it(scans, cache, without_pictures, tmp_path):
    said = Said()
    run = train(scanned(scans, cache), tmp_path / "run", progress=said)
    line = next(line for line in said.lines if "more than 8 bits" in line)
    assert (
        line
        == "  grey files with more than 8 bits: 0 becomes black and 4095 white, as the training images have them (image.range)"
    )
    assert run.summary["test"]["accuracy"] == 1.0
    assert any("0 becomes black" in note for note in json.loads((tmp_path / "run" / "summary.json").read_text())["notes"])
    loaded = cnnjax.load(tmp_path / "run")
    assert loaded.preprocessing.range == (0.0, 4095.0)
    files = sorted(scans.rglob("*.png"))
    assert [p.predicted for p in loaded.predict(files)] == [path.parent.name for path in files]
    assert cnnjax.evaluate(tmp_path / "run", "test")["accuracy"] == 1.0
    again = Said()
    train(scanned(scans, cache), tmp_path / "other", progress=again)
    assert line in again.lines, "also from the cache"


def test_a_given_range_is_used_and_its_run_goes_on_with_no_other(scans, cache, without_pictures, tmp_path):
    said = Said()
    train(scanned(scans, cache, image__range=(1000.0, 2000.0), train__epochs=1), tmp_path / "run", progress=said)
    assert not any("more than 8 bits" in line for line in said.lines)
    assert cnnjax.load(tmp_path / "run").preprocessing.range == (1000.0, 2000.0)


def test_files_of_another_range_do_not_continue_a_run(scans, cache, without_pictures, tmp_path):
    config = scanned(scans, cache, train__epochs=1)
    train(config, tmp_path / "run")
    twice = tmp_path / "twice"
    for path in scans.rglob("*.png"):
        (twice / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 2).save(twice / path.parent.name / path.name)
    with pytest.raises(DataError) as error:
        train(scanned(twice, cache, train__epochs=2), tmp_path / "run")
    assert "began with image.range=(0.0, 4095.0), these files have (0.0, 8190.0)" in one_line(error)


@pytest.mark.parametrize("text", ["5", "5,5", "9,1", "1,2,3"])
def test_a_wrong_range_is_one_line(text):
    with pytest.raises(ConfigError) as error:
        settings(image__range=text)
    assert "write the level of black and that of white, such as 0,4095" in one_line(error)


def test_files_of_8_bits_among_them_are_told(scans, cache, without_pictures, tmp_path):
    for path in scans.rglob("*.png"):
        place = tmp_path / "mixed" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(Image.open(path)) >> 4).astype(np.uint8)).save(place) if int(
            path.stem
        ) < 30 else place.write_bytes(path.read_bytes())
    said = Said()
    train(scanned(tmp_path / "mixed", cache, train__epochs=1), tmp_path / "run", progress=said)
    (line,) = (line for line in said.lines if "more than 8 bits" in line)
    assert " of 44 training images are grey files with more than 8 bits: 0 becomes black and 4095 white" in line
