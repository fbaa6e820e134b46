"""Routes of the console's pages. Each has its line in `console/policy.py`, or nobody gets in."""

from __future__ import annotations

from django.urls import include, path
from django.views.i18n import set_language

from console.dashboard.views import (
    catalog,
    catalog_change,
    catalog_make,
    engine,
    home,
    jobs,
    keys,
    live,
    operators,
    panels,
    playground,
    requests,
)

app_name = "dashboard"

urlpatterns = [
    path("", home.home, name="home"),
    path("home/figures", home.figures, name="home_figures"),
    path("home/requests", home.requests, name="home_requests"),
    path("engine/pill", engine.pill, name="engine_pill"),
    path("panels/", panels.page, name="panels"),
    path("panels/series", panels.series, name="panels_series"),
    path("panels/frames", panels.frames, name="panels_frames"),
    path("playground/", playground.playground, name="playground"),
    path("models/", catalog.models, name="models"),
    path("models/import", catalog_make.import_model, name="model_import"),
    path("models/release", catalog_change.release, name="models_release"),
    path("models/<str:name>/", catalog.model, name="model"),
    path("models/<str:name>/<str:revision_id>/", catalog.revision, name="revision"),
    path("models/<str:name>/<str:revision_id>/state", catalog.state, name="revision_state"),
    path("models/<str:name>/<str:revision_id>/load", catalog_change.load, name="revision_load"),
    path("models/<str:name>/<str:revision_id>/unload", catalog_change.unload, name="revision_unload"),
    path("models/<str:name>/<str:revision_id>/keep", catalog_change.keep, name="revision_keeping"),
    path("models/<str:name>/<str:revision_id>/force", catalog_change.force, name="revision_force"),
    path("models/<str:name>/<str:revision_id>/quantize", catalog_change.quantize, name="revision_quantize"),
    path("models/<str:name>/<str:revision_id>/certify", catalog_change.certify, name="revision_certify"),
    path("models/<str:name>/<str:revision_id>/delete", catalog_change.delete, name="revision_delete"),
    path("models/<str:name>/<str:revision_id>/settings", catalog_make.settings, name="revision_settings"),
    path("models/<str:name>/<str:revision_id>/advice", catalog_make.advice, name="revision_advice"),
    path("rollouts/", include("console.dashboard.rollout_urls")),
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
