"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AuditConfig(AppConfig):
    name = "console.audit"
    label = "audit"
    verbose_name = _("Audit")

    def ready(self) -> None:
        from console.audit import signals  # noqa: F401  registers its receivers
