"""The routes of the API plane: those of the registered endpoints."""

from __future__ import annotations

from django.urls import path, re_path

from console.gateway.endpoints.registry import registered
from console.gateway.http.views import nothing_here, view_of

app_name = "gateway"

urlpatterns = [
    *(
        path(route.pattern, view_of(endpoint, route), name=route.name)
        for endpoint in registered()
        for route in endpoint.routes
    ),
    re_path(r"", nothing_here, name="nothing_here"),
]
