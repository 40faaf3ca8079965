"""Your own images: a folder, .zip or .tar with one folder per class.

    python launch.py --config=configs/folder.py --config.data.path=DIR

Where several images show one patient, animal or place, keep these together, or the test numbers are too good:

    python launch.py --config=configs/folder.py --config.data.path=DIR --config.data.group='^[^_]+'

A linear probe begins with published weights and fits the last layer alone. It needs no second look at an image, and few images:

    python launch.py --config=configs/folder.py:probe --config.data.path=DIR
    python launch.py --config=configs/folder.py:probe --config.data.path=DIR --config.model.weights=FILE.safetensors

Folders such as train/, valid/ and Testing/ around the class folders are used as they are. --config.split.method=stratified divides all
images anew.

Measured on two cores of an AMD EPYC (Zen 5), float32, 155 images/s, on 2,560 photos of five flowers:
    10:41, 50 epochs; validation accuracy 0.776, test 0.833
"""

from cnnjax.config import AUTO, default, unknown_variant


def get_config(arg=""):
    """`arg`: "" or probe."""
    config = default()
    if arg == "probe":
        config.model.name = "efficientnet_lite0"
        config.model.weights = "hf:timm/tf_efficientnet_lite0.in1k"
        config.image.size = AUTO
        config.train.method = "probe"
        return config
    if arg:
        raise unknown_variant("folder", arg, ("probe",))
    config.image.size = 96
    config.image.resize = "pad"
    config.model.channels = (32, 64, 128, 128)
    config.model.norm = "batch"
    config.model.dense = (128,)
    config.model.dropout_features = 0.3
    config.augment.flip_horizontal = True
    config.augment.rotation = 15.0
    config.augment.zoom = 0.15
    config.augment.shift = 0.05
    config.train.epochs = 50
    config.optimizer.schedule = "plateau"
    config.optimizer.plateau_patience = 3
    config.optimizer.decay_factor = 0.3
    return config
