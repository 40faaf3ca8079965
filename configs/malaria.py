"""Malaria parasites in thin blood smears: is the cell parasitized?

27,558 stained cells of 200 patients (NLM; Rajaraman et al. 2018, PeerJ 6:e4568), 32x32 pixels, a network of 758,401
parameters. No patient is on two sides of the split.

    python launch.py --config=configs/malaria.py            downloads 353 MB, verifies it, trains
    python launch.py --config=configs/malaria.py --config.data.path=cell_images.zip
    python launch.py --config=configs/malaria.py:demo       drawn cells, no download
    python launch.py --config=configs/malaria.py:best       the recipe that is best on these cells, at 64x64 pixels
    python launch.py --config=configs/malaria.py:tutorial   the exercise as it is usually done

Measured on two cores of an AMD EPYC (Zen 4), float32, 3,500 images/s:
    7,438 cells of 52 patients   0:35, 20 epochs; test accuracy 0.916, AUC 0.977
    demo, 3,000 drawn cells      0:09, 8 epochs; test accuracy 0.982, AUC 0.995
best, of the same 7,438 cells: with AVX2 2:43; test accuracy 0.940, AUC 0.980; of 5 folds 0.945 and 0.987, where the network above has 0.927
and 0.980; see docs/results.md.
With --config.train.precision=bfloat16 a step is 1.3 times as fast where the processor has AVX512_BF16, and the AUC 0.002 lower (20 pairs
of runs, validation: -0.0022, 95 % interval -0.0045 to 0.0001).
The whole set takes about four times as long. Keras' best epoch on it, patients apart: accuracy 0.950, AUC 0.985.
"""

from cnnjax.config import default, set_recipe, unknown_variant


def get_config(arg=""):
    """`arg`: "", best, demo or tutorial."""
    config = default()
    config.data.url = "https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip"
    config.data.sha256 = "0a949556b2414159b5100192609805376654c4266d8d187be9b1922fad43c668"
    config.data.classes = ("Parasitized", "Uninfected")
    config.data.positive = "Parasitized"
    config.data.group = r"(?P<patient>^C\d+)"  # what follows it in a name is spelled in several ways
    config.data.batch_size = 64
    config.image.size = 32
    config.split.method = "grouped"
    config.model.channels = (16, 16, 16)
    config.model.convs = (1, 2, 2)
    config.model.padding = ("valid", "same", "same")
    config.model.pool_stride = 1
    config.model.dense = (64, 32)
    config.model.dropout_dense = 0.2
    config.train.epochs = 30
    config.train.patience = 10
    if arg == "demo":
        config.data.source = "demo"
        config.data.url = config.data.sha256 = ""
        config.train.epochs = 12
        config.train.patience = 4
    elif arg == "tutorial":
        # Keras' ImageDataGenerator: nearest-neighbour resize, and the first 20 % of each class's names held out. Eight
        # patients of the full set stand on both sides of that split.
        config.image.resize = "nearest"
        config.split.method = "tutorial"
        config.split.train, config.split.val, config.split.test = 0.8, 0.2, 0.0
    elif arg == "best":
        set_recipe(config, "cells_3min")
    elif arg:
        raise unknown_variant("malaria", arg, ("best", "demo", "tutorial"))
    return config
