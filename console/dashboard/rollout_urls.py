"""Paths of the rollouts' and routes' pages, below `rollouts/`."""

from __future__ import annotations

from django.urls import path

from console.dashboard.views import rollouts, routes

urlpatterns = [
    path("", rollouts.page, name="rollouts"),
    path("now", rollouts.active_now, name="rollouts_active"),
    path("new", rollouts.new, name="rollout_new"),
    path("start", rollouts.start, name="rollout_start"),
    path("<int:pk>/", rollouts.rollout, name="rollout"),
    path("<int:pk>/now", rollouts.rollout_now, name="rollout_now"),
    path("<int:pk>/<str:action>", rollouts.act, name="rollout_act"),
    path("routes/new", routes.new, name="route_new"),
    path("routes/switch", routes.switch, name="route_switch"),
    path("routes/<str:name>/", routes.route, name="route"),
    path("routes/<str:name>/delete", routes.delete, name="route_delete"),
]
