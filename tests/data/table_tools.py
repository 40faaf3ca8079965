"""Tables that tests write and open."""

import csv

from cnnjax import config as config_lib
from cnnjax.data import sources
from cnnjax.progress import Progress


def write(path, *rows, delimiter=",", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def opened(path, **values):
    config = config_lib.default()
    config.data.path = str(path)
    for name, value in values.items():
        config.data[name] = value
    return sources.open_source(config_lib.finish(config).data, Progress())
