"""Your own images: a folder, .zip or .tar with one folder per class.

    python launch.py --config=configs/folder.py --config.data.path=DIR

Where several images show one patient, animal or place, keep these together, or the test numbers are too good:

    python launch.py --config=configs/folder.py --config.data.path=DIR --config.data.group='^[^_]+'

With a network that has seen ImageNet, which learns more from few images; its weights are downloaded from the Hugging Face Hub (pip install
-e '.[hub]'), or are a file that is here. A linear probe fits the last layer alone, in seconds after one look at each image:

    python launch.py --config=configs/folder.py:probe --config.data.path=DIR
    python launch.py --config=configs/folder.py:probe --config.data.path=DIR --config.model.weights=FILE.safetensors

Fine-tuning trains all of it, and takes longer:

    python launch.py --config=configs/folder.py:pretrained --config.data.path=DIR
    python launch.py --config=configs/folder.py:pretrained --config.data.path=DIR --config.model.weights=FILE.safetensors

Folders such as train/, valid/ and Testing/ around the class folders are used as they are. --config.split.method=stratified divides all
images anew.

Without a choice the recipe photos_10min trains drawn weights: as many epochs as show 128,000 images, but 5 to 300.
--config.recipe=photos_60min takes more time and gets more of them right.

Measured on two cores of an AMD EPYC (Zen 5), float32, on 2,560 photos of five flowers:
    default     4:25 with AVX-512, 10:11 with AVX2; three seeds: validation accuracy 0.846, test 0.855
    --config.recipe=photos_2min, 1:01 with AVX-512, 2:06 with AVX2; three seeds: validation accuracy 0.726, test 0.748
    --config.recipe=photos_60min, 12:30 with AVX-512, 80:39 on one core with AVX2; three seeds: validation accuracy 0.867, test 0.887
    probe       0:30 with AVX-512, features at 287 images/s, with EfficientNet-Lite0 of Google: validation accuracy 0.906, test 0.924
    pretrained  2:55 with AVX-512, the same weights, three seeds: validation accuracy 0.911, test 0.951; cross-validated 0.920
"""

from cnnjax.config import AUTO, default, set_recipe, unknown_variant


def get_config(arg=""):
    """`arg`: "", probe or pretrained."""
    if arg == "probe":
        return _probe()
    if arg == "pretrained":
        return _pretrained()
    if arg:
        raise unknown_variant("folder", arg, ("probe", "pretrained"))
    return set_recipe(default(), "photos_10min")


def _probe():
    """The last layer of a small network that has learned from 1.28 million photos."""
    config = default()
    config.model.name = "efficientnet_lite0"
    config.model.weights = "hf:timm/tf_efficientnet_lite0.in1k"
    config.image.size = AUTO
    config.image.resize = "auto"
    config.train.method = "probe"
    return config


def _pretrained():
    """The same network: first its last layer alone, then all of it, the first layers the slowest."""
    config = _probe()
    config.image.size = 160  # 224, as the weights were trained, takes twice as long
    config.image.views = "mirrored"
    config.train.method = "gradient"
    config.model.dropout_dense = 0.2
    config.augment.flip_horizontal = True
    config.augment.crop_area = 0.5
    config.augment.brightness = 0.2
    config.augment.contrast = 0.2
    config.augment.saturation = 0.2
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.train.epochs = 8
    config.train.ema_decay = 0.99
    config.train.label_smoothing = 0.1
    config.train.freeze = "backbone"
    config.train.unfreeze_epoch = 2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.9
    config.optimizer.clip_norm = 1.0
    return config
