"""The app's registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "console.gateway"
    label = "gateway"

    def ready(self) -> None:
        from console.gateway.endpoints.registry import register_all  # models are loaded by now

        register_all()
