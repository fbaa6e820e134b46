"""The one map of HTTP routes; every route has a policy in `policy.py`."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

# One sign-in page, with its lockout.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", include("console.dashboard.urls")),
    path("account/", include("console.accounts.urls")),
    path("admin/", admin.site.urls),
    path("v1/", include("console.gateway.urls")),
    path("", include("monitoring.urls")),
]
