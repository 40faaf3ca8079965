"""Malaria."""
from cnnjax.config import default, unknown_variant


def get_config(arg=""):
    config = default()
    config.data.url = "https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip"
    config.data.sha256 = "0a949556b2414159b5100192609805376654c4266d8d187be9b1922fad43c668"
    config.data.classes = ("Parasitized", "Uninfected")
    config.data.positive = "Parasitized"
    config.data.group = r"^C\d+"
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
    return config
