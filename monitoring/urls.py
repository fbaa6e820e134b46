"""Routes of probes and metrics; the console includes them and says who may read which."""

from __future__ import annotations

from django.urls import path

from monitoring import views

urlpatterns = [
    path("health", views.health, name="health"),
    path("ready", views.ready, name="ready"),
    path("metrics", views.metrics, name="metrics"),
    path("grafana/jwks.json", views.grafana_jwks, name="grafana_jwks"),
]
