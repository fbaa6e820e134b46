"""The app's registration with Django: its kinds of jobs are found by it; its models are the catalog's."""

from __future__ import annotations

from django.apps import AppConfig


class CertificatesConfig(AppConfig):
    name = "console.certificates"
    label = "certificates"
