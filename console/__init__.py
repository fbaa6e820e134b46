"""The Django project: the console that operators work with and the gateway that key holders call."""

from __future__ import annotations

__version__ = "0.1.0"
