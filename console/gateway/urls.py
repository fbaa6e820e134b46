"""The routes of the API plane; all names are in `console/policy.py`."""

from __future__ import annotations

from django.urls import path, re_path

from console.gateway.http import views

app_name = "gateway"

urlpatterns = [
    path("chat/completions", views.chat_completions, name="chat_completions"),
    path("completions", views.completions, name="completions"),
    path("models", views.models, name="models"),
    path("models/<path:name>", views.model, name="model"),
    re_path(r"", views.nothing_here, name="nothing_here"),
]
