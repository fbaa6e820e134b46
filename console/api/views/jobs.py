"""Jobs: long work that was asked for, how far it has come, and how it ended."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, NoBody, PageQuery, Strict, body_of, listed, query_of
from console.audit.actor import actor_of
from console.jobs.actions import cancel, retry
from console.jobs.models import Job
from console.jobs.queries import OPEN, find_jobs

NUM_LINES = 200


class JobShown(Base):
    id = serializers.CharField(source="pk")
    kind = serializers.CharField()
    subject = serializers.CharField(help_text="the model or revision that it is about")
    state = serializers.ChoiceField(Job.State.choices)
    stage = serializers.CharField(allow_blank=True)
    fraction = serializers.FloatField(help_text="0 to 1")
    is_cancel_asked = serializers.BooleanField()
    arguments = serializers.JSONField()
    result = serializers.JSONField()
    error_code = serializers.CharField(allow_blank=True)
    error = serializers.CharField(allow_blank=True)
    actor = serializers.CharField()
    retry_of = serializers.CharField(source="retry_of_id", allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class LineShown(Base):
    at = serializers.DateTimeField()
    text = serializers.CharField()


class JobWithLog(JobShown):
    log = serializers.SerializerMethodField(help_text=f"its last {NUM_LINES} lines, oldest first")

    @extend_schema_field(LineShown(many=True))
    def get_log(self, job: Job) -> list[dict[str, object]]:
        lines = list(job.lines.order_by("-pk")[:NUM_LINES])[::-1]
        return list(LineShown(lines, many=True).data)


class JobsQuery(PageQuery):
    state = serializers.ChoiceField([*Job.State.choices, (OPEN, "queued or running")], required=False)
    kind = serializers.CharField(required=False, max_length=40)
    subject = serializers.CharField(required=False, max_length=200)


class Jobs(APIView):
    @extend_schema(parameters=[JobsQuery], responses=listed(JobShown, "Job"))
    def get(self, request: Request) -> Response:
        """List jobs, newest first."""
        query = query_of(request, JobsQuery)
        limit, cursor = query.pop("limit"), query.pop("cursor", None)
        rows = find_jobs(**query)
        if cursor is not None:
            rows = older_than(cursor, rows)
        found = list(rows[: limit + 1])
        has_more, found = len(found) > limit, found[:limit]
        shown = JobShown(found, many=True).data
        return Response({"data": shown, "next": found[-1].pk if has_more else None})


class OneJob(APIView):
    @extend_schema(responses=JobWithLog)
    def get(self, request: Request, job_id: str) -> Response:
        """A job, with the end of its log."""
        query_of(request, Strict)
        return Response(JobWithLog(find(job_id)).data)


class JobCancel(APIView):
    @extend_schema(request=NoBody, responses={202: JobShown})
    def post(self, request: Request, job_id: str) -> Response:
        """Cancel a job: at once where it is queued, at its next step where it runs."""
        body_of(request, NoBody)
        job = find(job_id)
        cancel(actor=actor_of(request), job=job)
        return Response(JobShown(find(job_id)).data, status=202)


class JobRetry(APIView):
    @extend_schema(request=NoBody, responses={201: JobShown})
    def post(self, request: Request, job_id: str) -> Response:
        """Queue the work of a job that failed or was cancelled again, as a new job."""
        body_of(request, NoBody)
        return Response(JobShown(retry(actor=actor_of(request), job=find(job_id))).data, status=201)


def find(job_id: str) -> Job:
    return get_object_or_404(Job, pk=job_id)


def older_than(cursor: str, rows: QuerySet[Job]) -> QuerySet[Job]:
    """The cursor is the last job of the page before."""
    mark = Job.objects.filter(pk=cursor).first()
    if mark is None:
        raise serializers.ValidationError({"cursor": ["It was never given out."]}, code="invalid_cursor")
    return rows.filter(Q(created_at__lt=mark.created_at) | Q(created_at=mark.created_at, pk__lt=mark.pk))
