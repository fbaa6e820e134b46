"""The error of a model that cannot be quantized; its message is for people."""

from __future__ import annotations


class CannotQuantize(ValueError):
    """The model does not suit the method, or its files are of another variant of it."""
