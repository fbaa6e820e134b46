"""Revisions: what they are, what of them is loaded, and everything that operators do with them."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, NoBody, PageQuery, Strict, body_of, listed, query_of
from console.api.views.jobs import JobShown
from console.audit import visibility
from console.audit.actor import actor_of
from console.catalog.actions import delete_files, derive, start_import
from console.catalog.import_request import METHODS, SOURCES, ImportRefused, check_engine
from console.catalog.models import Deployment, Revision
from console.catalog.overview import with_related
from console.certificates import actions as quantizing
from console.certificates.status import status_of
from console.deployments import actions as deployments
from console.deployments.settings_plan import faults

MOST_IDLE_SECONDS = 30 * 86400


class DeploymentShown(Base):
    wanted = serializers.ChoiceField(Deployment.Wanted.choices)
    state = serializers.ChoiceField(Deployment.State.choices)
    stage = serializers.CharField(allow_blank=True, help_text="of a load")
    fraction = serializers.FloatField(help_text="of a load, 0 to 1")
    reason = serializers.CharField(allow_blank=True, help_text="why it waits, failed or was unloaded")
    state_at = serializers.DateTimeField(help_text="since when it is in this state")
    is_pinned = serializers.BooleanField()
    is_forced = serializers.BooleanField()
    idle_seconds = serializers.IntegerField(allow_null=True, help_text="null: the installation's; 0: never")
    memory_bytes = serializers.IntegerField(allow_null=True, help_text="measured at the last load")
    load_seconds = serializers.FloatField(allow_null=True)
    dtype = serializers.CharField(source="card.dtype", default="", help_text="that it was loaded in last")
    why_dtype = serializers.CharField(
        source="card.why_dtype", default="", help_text="what that was chosen by, where settings leave it open"
    )
    last_used_at = serializers.DateTimeField(allow_null=True)
    files_deleted_at = serializers.DateTimeField(allow_null=True)


class ShareShown(Base):
    route = serializers.CharField(source="route.name")
    share = serializers.IntegerField(source="weight", help_text="of the route's requests, in percent")


class RevisionListed(Base):
    id = serializers.CharField(source="pk")
    model = serializers.CharField(source="model.name")
    parent = serializers.CharField(source="parent_id", allow_null=True)  # type: ignore[assignment]
    source = serializers.CharField()  # type: ignore[assignment]
    engine = serializers.JSONField(help_text="settings that differ from the installation's")
    facts = serializers.JSONField(help_text="what the files say of themselves")
    num_bytes = serializers.IntegerField(help_text="of its files")
    created_at = serializers.DateTimeField()
    deployment = DeploymentShown()
    shares = ShareShown(source="arms.all", many=True)


class CertificateShown(Base):
    kind = serializers.CharField(help_text="not_needed, missing, failed, passed or outdated")
    reason = serializers.CharField(allow_blank=True)
    figures = serializers.JSONField(source="certificate.figures", default=None, allow_null=True)
    thresholds = serializers.JSONField(source="certificate.thresholds", default=None, allow_null=True)
    measured_at = serializers.DateTimeField(source="certificate.created_at", default=None, allow_null=True)


class RevisionDetail(RevisionListed):
    files = serializers.JSONField(help_text="name -> sha256 and size")
    certificate = serializers.SerializerMethodField()

    @extend_schema_field(CertificateShown)
    def get_certificate(self, revision: Revision) -> dict[str, Any]:
        return dict(CertificateShown(status_of(revision)).data)


class RevisionsQuery(PageQuery):
    model = serializers.CharField(required=False, max_length=64)
    state = serializers.ChoiceField(Deployment.State.choices, required=False)


class ImportBody(Strict):
    source = serializers.ChoiceField(SOURCES)  # type: ignore[assignment]
    location = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=4096,
        help_text="owner/name, a path on the server, a requirement",
    )
    commit = serializers.CharField(default="", allow_blank=True, max_length=128, help_text="hub: or a branch")
    name = serializers.CharField(max_length=64)
    quantize = serializers.ChoiceField(METHODS, default=None, allow_null=True)
    engine = serializers.DictField(default=dict)


class SettingsBody(Strict):
    engine = serializers.DictField(help_text="settings that differ from the installation's")


class KeepingBody(Strict):
    is_pinned = serializers.BooleanField()
    idle_seconds = serializers.IntegerField(min_value=0, max_value=MOST_IDLE_SECONDS, allow_null=True)


class ForceBody(Strict):
    is_forced = serializers.BooleanField()


class Imports(APIView):
    @extend_schema(request=ImportBody, responses={202: JobShown})
    def post(self, request: Request) -> Response:
        """Import a model, as a job: its `result` names the revision."""
        job = start_import(actor=actor_of(request), **body_of(request, ImportBody))
        return Response(JobShown(job).data, status=202)


class Revisions(APIView):
    @extend_schema(parameters=[RevisionsQuery], responses=listed(RevisionListed, "Revision"))
    def get(self, request: Request) -> Response:
        """List revisions, newest first."""
        query = query_of(request, RevisionsQuery)
        names = {"model": "model__name", "state": "deployment__state"}
        wanted = {path: query[name] for name, path in names.items() if name in query}
        revisions = visibility.visible_to(actor_of(request), Revision.objects.filter(**wanted))
        rows = with_related(revisions).order_by("-created_at", "-pk")
        if "cursor" in query:
            rows = older_than(query["cursor"], rows)
        found = list(rows[: query["limit"] + 1])
        has_more, found = len(found) > query["limit"], found[: query["limit"]]
        return Response(
            {"data": RevisionListed(found, many=True).data, "next": found[-1].pk if has_more else None}
        )


class OneRevision(APIView):
    @extend_schema(responses=RevisionDetail)
    def get(self, request: Request, revision_id: str) -> Response:
        """A revision, with its files and its certificate."""
        return shown(find(revision_id))


class RevisionLoad(APIView):
    @extend_schema(request=NoBody, responses=RevisionDetail)
    def post(self, request: Request, revision_id: str) -> Response:
        """Want it loaded; `deployment` says how far that is. A load that failed is tried again."""
        found = find(revision_id)
        body_of(request, NoBody)
        deployments.load(actor=actor_of(request), revision=found)
        return shown(find(revision_id))


class RevisionUnload(APIView):
    @extend_schema(request=NoBody, responses=RevisionDetail)
    def post(self, request: Request, revision_id: str) -> Response:
        """Want it out of memory. Refused while a route sends it requests."""
        found = find(revision_id)
        body_of(request, NoBody)
        deployments.unload(actor=actor_of(request), revision=found)
        return shown(find(revision_id))


class RevisionKeeping(APIView):
    @extend_schema(request=KeepingBody, responses=RevisionDetail)
    def put(self, request: Request, revision_id: str) -> Response:
        """Say how long it stays in memory."""
        found = find(revision_id)
        deployments.set_keeping(actor=actor_of(request), revision=found, **body_of(request, KeepingBody))
        return shown(find(revision_id))


class RevisionForce(APIView):
    @extend_schema(request=ForceBody, responses=RevisionDetail)
    def put(self, request: Request, revision_id: str) -> Response:
        """Serve it alone: requests for others answer 400 `model_not_served`. Or end that."""
        found = find(revision_id)
        if body_of(request, ForceBody)["is_forced"]:
            deployments.force(actor=actor_of(request), revision=found)
        elif found.deployment.is_forced:
            deployments.release(actor=actor_of(request))
        return shown(find(revision_id))


class RevisionSettings(APIView):
    @extend_schema(request=SettingsBody, responses={201: RevisionDetail})
    def post(self, request: Request, revision_id: str) -> Response:
        """Make a revision of the same files with other engine settings; this one is its parent."""
        found = find(revision_id)
        engine = body_of(request, SettingsBody)["engine"]
        check_engine(engine)
        for name, why in faults(found, engine).items():
            raise ImportRefused(why, field="engine" if name == "memory" else f"engine.{name}")
        made = derive(actor=actor_of(request), revision=found, engine=engine)
        return shown(find(made.pk), status=201)


class RevisionQuantize(APIView):
    @extend_schema(request=NoBody, responses={202: JobShown})
    def post(self, request: Request, revision_id: str) -> Response:
        """Quantize it to int8, as a job that makes a revision and certifies it."""
        found = find(revision_id)
        body_of(request, NoBody)
        job = quantizing.start_quantize(actor=actor_of(request), revision=found)
        return Response(JobShown(job).data, status=202)


class RevisionCertify(APIView):
    @extend_schema(request=NoBody, responses={202: JobShown})
    def post(self, request: Request, revision_id: str) -> Response:
        """Measure it against its parent, as a job."""
        found = find(revision_id)
        body_of(request, NoBody)
        job = quantizing.start_certify(actor=actor_of(request), revision=found)
        return Response(JobShown(job).data, status=202)


class RevisionDeleteFiles(APIView):
    @extend_schema(request=NoBody, responses=RevisionDetail)
    def post(self, request: Request, revision_id: str) -> Response:
        """Give its disk back. The revision stays, with its history; it can be loaded no more."""
        found = find(revision_id)
        body_of(request, NoBody)
        delete_files(actor=actor_of(request), revision=found)
        return shown(find(revision_id))


def find(revision_id: str) -> Revision:
    return get_object_or_404(with_related(Revision.objects.all()), pk=revision_id)


def shown(revision: Revision, *, status: int = 200) -> Response:
    return Response(RevisionDetail(revision).data, status=status)


def older_than(cursor: str, rows: QuerySet[Revision]) -> QuerySet[Revision]:
    """The page after the revision that ended the one before."""
    last = Revision.objects.filter(pk=cursor).values_list("created_at", flat=True).first()
    if last is None:
        raise serializers.ValidationError({"cursor": ["It was never given out."]}, code="invalid_cursor")
    return rows.filter(Q(created_at__lt=last) | Q(created_at=last, pk__lt=cursor))
