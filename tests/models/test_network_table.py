"""The table of a network: layer by layer, with parameters and work."""

import jax
import pytest
from training_tools import CONFIGS, network_of

from cnnjax import config as config_lib
from cnnjax import models

FLOWERS = [("conv1", (180, 180, 16), 448), ("pool1", (90, 90, 16), 0), ("conv2", (90, 90, 32), 4640),
           ("pool2", (45, 45, 32), 0), ("conv3", (45, 45, 64), 18496), ("pool3", (22, 22, 64), 0),
           ("dropout", (22, 22, 64), 0), ("flatten", (30976,), 0), ("dense1", (128,), 3965056),
           ("outputs", (5,), 645)]  # fmt: skip
MALARIA = [("conv1", (30, 30, 16), 448), ("pool1", (29, 29, 16), 0), ("conv2_1", (29, 29, 16), 2320),
           ("conv2_2", (29, 29, 16), 2320), ("pool2", (28, 28, 16), 0), ("conv3_1", (28, 28, 16), 2320),
           ("conv3_2", (28, 28, 16), 2320), ("pool3", (27, 27, 16), 0), ("flatten", (11664,), 0),
           ("dense1", (64,), 746560), ("dropout1", (64,), 0), ("dense2", (32,), 2080), ("dropout2", (32,), 0),
           ("outputs", (1,), 33)]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "classes", "rows", "total"),
    [("flowers", 5, FLOWERS, 3_989_285), ("flowers.py:tutorial", 5, FLOWERS, 3_989_285),
     ("malaria", 2, MALARIA, 758_401), ("malaria.py:tutorial", 2, MALARIA, 758_401)],
)  # fmt: skip
def test_the_tutorials_networks(repository, file, classes, rows, total):
    path = repository / "configs" / (file if ":" in file else f"{file}.py")
    config = config_lib.load_config(str(path))
    network = network_of(config, classes)
    table = models.table(network.model)
    assert [(row.name, row.shape, row.parameters) for row in table] == rows
    assert sum(row.parameters for row in table) == total
    params, _ = jax.eval_shape(network.make)
    assert sum(p.size for p in jax.tree.leaves(params)) == total


def test_the_work_of_the_malaria_network(repository):
    network = network_of(config_lib.load_config(repository / "configs" / "malaria.py"), 2)
    assert sum(row.mflops for row in models.table(network.model)) == pytest.approx(17.251, abs=0.001)


def test_mflops_count_multiplications_and_additions():
    rows = {row.name: row for row in models.table(network_of(config_lib.load_config(CONFIGS / "malaria.py"), 2).model)}
    assert rows["conv1"].mflops == pytest.approx(2 * 30 * 30 * 9 * 3 * 16 / 1e6)
    assert rows["dense1"].mflops == pytest.approx(2 * 11_664 * 64 / 1e6)
    assert rows["pool1"].mflops == 0
