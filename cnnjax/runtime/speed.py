"""Settings of this process that make work faster, from the command line and from Python alike."""

from cnnjax.runtime.compilation import keep_compiled
from cnnjax.runtime.memory import keep_memory, kept


def set_up(config) -> None:
    """Keeps compiled programs in the cache and, where `runtime.keep_memory` says so, freed memory in the process.

    `config` is the whole tree of a run. It may be called again, and after JAX was used, because it changes no device. Dividing a CPU into several devices does;
    that is left to the command line.
    """
    keep_compiled(config.data.cache_dir)
    if not kept["text"]:
        keep_memory(config)
