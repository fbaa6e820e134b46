"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class RolloutsConfig(AppConfig):
    name = "console.rollouts"
    label = "rollouts"
