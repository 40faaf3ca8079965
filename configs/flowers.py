"""Flowers: daisy, dandelion, roses, sunflowers or tulips?

3,670 photos (TensorFlow's image classification tutorial), 180x180 pixels, the tutorial's second model of 3,989,285
parameters: flip, rotation and zoom in training, dropout before the flatten.

    python launch.py --config=configs/flowers.py            downloads 229 MB, verifies it, trains
    python launch.py --config=configs/flowers.py --config.data.path=flower_photos.tgz
    python launch.py --config=configs/flowers.py:tutorial   the tutorial's split and its 15 epochs
    python launch.py --config=configs/flowers.py:demo       the tutorial's first model at 64x64 pixels, 5 epochs

Measured on two cores of an AMD EPYC (Zen 4), float32, 570 images/s, on 2,560 of the photos:
    default   0:51, 14 epochs; validation accuracy 0.693, test 0.682
    tutorial  five seeds: validation accuracy 0.676-0.719
The tutorial reports about 0.70 in validation on the whole set; configs/folder.py gets 0.85 on the same photos.
"""

from cnnjax.config import default, set_preset, unknown_variant


def get_config(arg=""):
    """`arg`: "", demo or tutorial."""
    config = default()
    config.data.url = "http://download.tensorflow.org/example_images/flower_photos.tgz"
    config.data.sha256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
    config.data.classes = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    config.data.batch_size = 32
    config.image.size = 180
    config.model.channels = (16, 32, 64)
    config.model.dense = (128,)
    config.model.dropout_features = 0.2
    set_preset(config, "tutorial")
    config.train.epochs = 40
    config.train.patience = 8
    if arg == "demo":
        config.image.size = 64
        set_preset(config, "none")
        config.model.dropout_features = 0.0
        config.train.epochs = 5
    elif arg == "tutorial":
        # Keras' image_dataset_from_directory(validation_split=0.2, seed=123).
        config.split.method = "tutorial_shuffled"
        config.split.seed = 123
        config.split.train, config.split.val, config.split.test = 0.8, 0.2, 0.0
        config.train.epochs = 15
        config.train.patience = 0
    elif arg:
        raise unknown_variant("flowers", arg, ("demo", "tutorial"))
    return config
