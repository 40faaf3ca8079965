"""Every row of `MODELS` at its full size: what docs/networks.md says of it, and the names of its arrays in the collections."""

import math
import re

import parity
import parity_draws
import pytest
from flax import traverse_util
from training_tools import ROOT, network_of, settings

from cnnjax import models

# Every row of the page by its network: parameters, operations, expected images and collections, as they are written.
PAGE = {
    cells[0].strip("`"): cells[1:6]
    for line in (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 8
}
# Networks that take seconds to trace.
DEEP = ("efficientnet_b0", "efficientnetv2_s", "tf_efficientnetv2_s", "mobilenetv3_large_100", "densenet121")


def digest(network: models.Network, collection: str) -> str:
    """The digest of the names in a collection of all arrays of a network, with their numbers of elements."""
    sizes = {
        path: math.prod(leaf.shape) for tree in network.shapes for path, leaf in traverse_util.flatten_dict(tree).items()
    }
    names = models.reference_names(sizes, network.model.references[collection])
    return parity_draws.digest({name: sizes[path] for path, name in names.items()})


def images(expected: models.Expected) -> str:
    """The mean and the deviation as the page has them."""
    if expected.mean == models.Expected().mean:
        return "ImageNet"
    return " / ".join(f"{numbers[0]:.3f}".rstrip("0") for numbers in (expected.mean, expected.deviation))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in DEEP else ()) for n in models.MODELS])
def test_the_page_and_the_names_of_arrays_are_those_of_the_network(name):
    network = network_of(settings(model__name=name, image__size=224), 1000)
    rows, model = models.table(network.model), network.model
    expected = [f"{sum(row.parameters for row in rows) / 1e6:.1f}", f"{sum(row.mflops for row in rows) / 1e3:.2f}"]
    if model.references:
        expected += [str(model.expects.size), images(model.expects), ", ".join(sorted(model.references))]
    else:
        expected += ["", "", ""]
    assert PAGE[name] == expected
    found = {side: row["arrays"] for side, row in parity.ROWS.items() if side.split("/")[0] == name and "arrays" in row}
    assert {side: digest(network, side.split("/")[1]) for side in found} == found


def test_the_page_has_no_other_rows():
    assert list(PAGE) == list(models.MODELS)


def test_weights_that_the_page_names_are_for_the_network_beside_them():
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(\w+)`.*`hf:timm/(\w+)\.\w+`", page, re.MULTILINE))
    there = {side.split("/")[0]: row["reference"] for side, row in parity.ROWS.items() if side.endswith("/timm")}
    assert there.items() <= named.items()
