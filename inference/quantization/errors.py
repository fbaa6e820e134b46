"""What a method of quantization says of a model that it cannot take; the message is for people."""

from __future__ import annotations


class CannotQuantize(ValueError):
    """The model does not suit the method, or its files are of another form of it."""
