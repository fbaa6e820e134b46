"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class JobsConfig(AppConfig):
    name = "console.jobs"
    label = "jobs"

    def ready(self) -> None:
        """Each app that has long work names its kinds in a module `work.py`."""
        autodiscover_modules("job_kinds")
