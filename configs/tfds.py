"""Any image classification set of TensorFlow Datasets, by its name; TensorFlow itself is not needed.

    python launch.py --config=configs/tfds.py:cifar10
    python launch.py --config=configs/tfds.py:mnist
    python launch.py --config=configs/tfds.py:malaria --config.data.path=cell_images.zip   a local copy of its archive

The set's own train, validation and test parts are kept; what it lacks is cut from its training part. TFDS drops file
names, and with them patients: for the malaria cells use configs/malaria.py.

cifar10: 162 MB are downloaded; 50,000 images of 32x32 pixels, a network of 551,018 parameters. Time and score of
the whole set are not measured yet.
mnist, with --config.train.epochs=6 on two cores of an AMD EPYC (Zen 5, AVX-512): test accuracy 0.996 (0.994 to 0.997) in 5:30, seed 0.
Its four files are --config.data.path=DIR where they are there already.
"""

import re

from cnnjax.config import default
from cnnjax.errors import ConfigError

# Letters and digits, which are not mirrored.
WRITTEN = ("mnist", "emnist", "kmnist", "mnist_corrupted", "omniglot", "svhn_cropped")


def get_config(arg=""):
    """`arg`: the name of a set, such as cifar10 or cifar10:3.0.2."""
    if not arg:
        raise ConfigError("name a data set of TFDS after a colon, such as --config=configs/tfds.py:cifar10")
    config = default()
    config.data.source = "tfds"
    config.data.tfds = arg
    config.data.batch_size = 128
    config.image.size = 32
    config.split.method = "official"
    config.model.channels = (32, 64, 128)
    config.model.convs = (2,)
    config.model.norm = "batch"
    config.model.dropout_features = 0.3
    config.model.dense = (128,)
    config.model.dropout_dense = 0.2
    config.augment.flip_horizontal = re.split("[/:]", arg)[0] not in WRITTEN
    config.augment.shift = 0.1
    config.train.epochs = 30
    config.train.patience = 0
    config.optimizer.schedule = "cosine"
    return config
