"""One file for each thing that a user can ask for. Each is imported by itself, so that a report starts without JAX."""

__all__ = []
