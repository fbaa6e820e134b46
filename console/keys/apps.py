"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "console.keys"
    label = "keys"
