"""Several trainings that answer one question together: cross-validation."""

from cnnjax.studies.crossvalidate import crossvalidate

__all__ = ["crossvalidate"]
