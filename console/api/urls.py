"""The management API's routes; who may use each, by method, stands in `console/policy.py`."""

from __future__ import annotations

from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from console.api.views import (
    audit,
    engine,
    jobs,
    keys,
    models,
    nothing,
    panels,
    people,
    requests,
    revisions,
    rollouts,
    routes,
)

app_name = "api"

Docs = SpectacularSwaggerSplitView.as_view(url_name="api:schema", template_name="api/docs.html")

urlpatterns = [
    path("keys", keys.Keys.as_view(), name="keys"),
    path("keys/<str:public_id>", keys.Key.as_view(), name="key"),
    path("keys/<str:public_id>/limits", keys.KeyLimits.as_view(), name="key_limits"),
    path("keys/<str:public_id>/revoke", keys.KeyRevoke.as_view(), name="key_revoke"),
    path("people", people.People.as_view(), name="people"),
    path("people/<str:username>", people.Person.as_view(), name="person"),
    path("people/<str:username>/role", people.PersonRole.as_view(), name="person_role"),
    path("people/<str:username>/active", people.PersonActive.as_view(), name="person_active"),
    path("people/<str:username>/password", people.PersonPassword.as_view(), name="person_password"),
    path("teams", people.Teams.as_view(), name="teams"),
    path("models", models.Models.as_view(), name="models"),
    path("models/<str:name>", models.Model.as_view(), name="model"),
    path("imports", revisions.Imports.as_view(), name="imports"),
    path("revisions", revisions.Revisions.as_view(), name="revisions"),
    path("revisions/<str:revision_id>", revisions.OneRevision.as_view(), name="revision"),
    path("revisions/<str:revision_id>/load", revisions.RevisionLoad.as_view(), name="revision_load"),
    path("revisions/<str:revision_id>/unload", revisions.RevisionUnload.as_view(), name="revision_unload"),
    path("revisions/<str:revision_id>/keeping", revisions.RevisionKeeping.as_view(), name="revision_keeping"),
    path("revisions/<str:revision_id>/force", revisions.RevisionForce.as_view(), name="revision_force"),
    path(
        "revisions/<str:revision_id>/settings", revisions.RevisionSettings.as_view(), name="revision_settings"
    ),
    path(
        "revisions/<str:revision_id>/quantize", revisions.RevisionQuantize.as_view(), name="revision_quantize"
    ),
    path("revisions/<str:revision_id>/certify", revisions.RevisionCertify.as_view(), name="revision_certify"),
    path(
        "revisions/<str:revision_id>/delete-files",
        revisions.RevisionDeleteFiles.as_view(),
        name="revision_delete",
    ),
    path("jobs", jobs.Jobs.as_view(), name="jobs"),
    path("jobs/<str:job_id>", jobs.OneJob.as_view(), name="job"),
    path("jobs/<str:job_id>/cancel", jobs.JobCancel.as_view(), name="job_cancel"),
    path("jobs/<str:job_id>/retry", jobs.JobRetry.as_view(), name="job_retry"),
    path("routes", routes.Routes.as_view(), name="routes"),
    path("routes/<str:name>", routes.OneRoute.as_view(), name="route"),
    path("rollouts", rollouts.Rollouts.as_view(), name="rollouts"),
    path("rollouts/<str:pk>", rollouts.OneRollout.as_view(), name="rollout"),
    path("rollouts/<str:pk>/<str:action>", rollouts.RolloutAct.as_view(), name="rollout_act"),
    path("requests", requests.Requests.as_view(), name="requests"),
    path("requests/<str:request_id>", requests.OneRequest.as_view(), name="request"),
    path("usage", requests.Usage.as_view(), name="usage"),
    path("audit", audit.Entries.as_view(), name="audit"),
    path("panels", panels.Panels.as_view(), name="panels"),
    path("panels/<str:panel_id>", panels.Panel.as_view(), name="panel"),
    path("engine", engine.Engine.as_view(), name="engine"),
    path("in-flight", engine.InFlight.as_view(), name="in_flight"),
    path("in-flight/<str:request_id>/cancel", engine.InFlightCancel.as_view(), name="in_flight_cancel"),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="schema"),
    path("docs/", Docs, name="docs"),
    re_path("", csrf_exempt(nothing.nothing_here), name="nothing_here"),
]
