"""The one map of HTTP routes; every route has a policy in `policy.py`."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
