"""Errors that a user can cause: one line saying what was given, what is allowed and what to type next."""


class UserError(Exception):
    """Something that the user can put right. `launch.py` prints it and exits with 2."""


class ConfigError(UserError):
    """A wrong key or value in a config; one line per problem."""


class DataError(UserError):
    """Images, archives or splits that cannot be used as they are."""


class CheckpointError(UserError):
    """A run directory or a checkpoint that cannot be used as asked."""


class OutsideError(UserError):
    """A name or a link that leads out of the directory in which it was found."""


class TrainingError(UserError):
    """Training that cannot go on, such as a loss that is not a number."""


class Stopped(Exception):
    """Raised after a stop request when everything is saved. `launch.py` exits with 75."""


class PeerError(Exception):
    """Another process of this run is gone. `launch.py` exits with 1: start all of them again."""
