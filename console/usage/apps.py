"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "console.usage"
    label = "usage"
