"""Jobs: long work that was asked for, how far it has come, and how it ended. Operators cancel and retry."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import trigger_client_event

from console.audit.actor import actor_of
from console.catalog.models import Revision
from console.environment import environment
from console.jobs import actions
from console.jobs.models import Job
from console.jobs.queries import OPEN, find_jobs
from console.policy import Who, permits

PER_PAGE = 50
NOTHING: tuple[object, ...] = (None, "", {}, [])  # what need not be shown of a wish
STATES = [("", gettext_lazy("all")), (OPEN, gettext_lazy("queued or running")), *Job.State.choices]


class FindForm(forms.Form):
    state = forms.ChoiceField(label=gettext_lazy("State"), choices=STATES, required=False)


@require_GET
@never_cache
def jobs(request: HttpRequest) -> HttpResponse:
    form = FindForm(request.GET)
    state = form.cleaned_data["state"] if form.is_valid() else ""
    page = Paginator(find_jobs(actor_of(request), state=state), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "page": page,
        "is_narrowed": bool(state),
        "has_open": any(job.is_open for job in page),
    }
    return render(request, "jobs/list.html", context)


@require_GET
@never_cache
def job(request: HttpRequest, job_id: str) -> HttpResponse:
    found = get_object_or_404(Job.objects.select_related("retry_of"), pk=job_id)
    lines = list(found.lines.all())
    context = {
        "job": found,
        "lines": lines,
        "last": lines[-1].pk if lines else 0,
        "arguments": {name: value for name, value in found.arguments.items() if value not in NOTHING},
        "made": made_by(found),
        "again": found.retries.order_by("-created_at").first(),
        "may_act": permits(Who.OPERATOR, request.user),
        "waits_for_celery": found.where == Job.Where.WORKER and bool(environment().redis_url),
    }
    return render(request, "jobs/job.html", context)


def made_by(job: Job) -> Revision | None:
    """The revision that it made, or was about."""
    return Revision.objects.select_related("model").filter(pk=job.result.get("revision", "")).first()


@require_GET
@never_cache
def progress(request: HttpRequest, job_id: str) -> HttpResponse:
    """The moving part of a job, for any page; tells the page once the job has ended."""
    found = get_object_or_404(Job, pk=job_id)
    response = render(request, "jobs/partials/progress.html", {"job": found})
    if found.is_open:
        return response
    return trigger_client_event(response, "job-ended", {"id": found.pk, "state": found.state})


@require_GET
@never_cache
def lines(request: HttpRequest, job_id: str) -> HttpResponse:
    """Lines of the log after `?after=`, and whoever asks for the next while the job is open."""
    found = get_object_or_404(Job, pk=job_id)
    after = request.GET.get("after", "0")
    new = list(found.lines.filter(pk__gt=int(after) if after.isdecimal() and len(after) < 19 else 0))
    if not new and found.is_open:
        return HttpResponse(status=204)  # htmx leaves the page as it is and asks again
    context = {"job": found, "lines": new, "last": new[-1].pk if new else after}
    return render(request, "jobs/partials/lines.html", context)


@require_POST
def cancel(request: HttpRequest, job_id: str) -> HttpResponse:
    found = get_object_or_404(Job, pk=job_id)
    try:
        actions.cancel(actor=actor_of(request), job=found)
    except actions.JobActionRefused:
        messages.warning(request, _("This job has ended already."))
    return redirect("dashboard:job", job_id=found.pk)


@require_POST
def retry(request: HttpRequest, job_id: str) -> HttpResponse:
    found = get_object_or_404(Job, pk=job_id)
    try:
        again = actions.retry(actor=actor_of(request), job=found)
    except actions.JobActionRefused:
        messages.warning(request, _("This job is done, still runs, or is being tried again already."))
        return redirect("dashboard:job", job_id=found.pk)
    messages.success(request, _("It is queued again, as a new job."))
    return redirect("dashboard:job", job_id=again.pk)
