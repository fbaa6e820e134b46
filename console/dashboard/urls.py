"""Routes of the console's pages. Each has its line in `console/policy.py`, or nobody gets in."""

from __future__ import annotations

from django.urls import path
from django.views.i18n import set_language

from console.dashboard.views import catalog, engine, home, jobs, keys, live, operators, playground, requests

app_name = "dashboard"

urlpatterns = [
    path("", home.home, name="home"),
    path("home/figures", home.figures, name="home_figures"),
    path("home/requests", home.requests, name="home_requests"),
    path("engine/pill", engine.pill, name="engine_pill"),
    path("engine/series", engine.series, name="engine_series"),
    path("playground/", playground.playground, name="playground"),
    path("models/", catalog.models, name="models"),
    path("models/<str:name>/", catalog.model, name="model"),
    path("models/<str:name>/<str:revision_id>/", catalog.revision, name="revision"),
    path("models/<str:name>/<str:revision_id>/state", catalog.state, name="revision_state"),
    path("keys/", keys.keys, name="keys"),
    path("keys/issue", keys.issue, name="key_issue"),
    path("keys/<str:public_id>/", keys.key, name="key"),
    path("keys/<str:public_id>/change", keys.change, name="key_change"),
    path("keys/<str:public_id>/limits", keys.change_limits, name="key_limits"),
    path("keys/<str:public_id>/revoke", keys.revoke, name="key_revoke"),
    path("live/", live.page, name="live"),
    path("live/now", live.now, name="live_now"),
    path("live/<str:request_id>/cancel", live.cancel, name="request_cancel"),
    path("jobs/", jobs.jobs, name="jobs"),
    path("jobs/<str:job_id>/", jobs.job, name="job"),
    path("jobs/<str:job_id>/progress", jobs.progress, name="job_progress"),
    path("jobs/<str:job_id>/lines", jobs.lines, name="job_lines"),
    path("jobs/<str:job_id>/cancel", jobs.cancel, name="job_cancel"),
    path("jobs/<str:job_id>/retry", jobs.retry, name="job_retry"),
    path("requests/", requests.log, name="requests"),
    path("requests/export.csv", requests.export, name="requests_csv"),
    path("requests/<str:request_id>/", requests.one, name="request"),
    path("operators/", operators.people, name="operators"),
    path("operators/create", operators.create, name="operator_create"),
    path("operators/<int:pk>/role", operators.change_role, name="operator_role"),
    path("operators/<int:pk>/active", operators.set_active, name="operator_active"),
    path("operators/<int:pk>/password", operators.reset_password, name="operator_password"),
    path("language", set_language, name="set_language"),
]
