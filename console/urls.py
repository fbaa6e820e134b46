"""The one map of HTTP routes; every route has a policy in `policy.py`."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("v1/", include("console.gateway.urls")),
    path("", include("monitoring.urls")),
]
