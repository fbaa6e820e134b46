"""The one map of HTTP routes; every route has a policy in `policy.py`."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

# One sign-in page, with its lockout, and one page for one's password, with its audit entry.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
admin.site.password_change = RedirectView.as_view(  # type: ignore[assignment, method-assign]
    pattern_name="account_change_password"
)

handler500 = "console.server.unwritable.failed"
urlpatterns = [
    path("", include("console.dashboard.urls")),
    path("account/", include("console.accounts.urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("console.api.urls")),
    path("v1/", include("console.gateway.urls")),
    path("", include("monitoring.urls")),
]
