"""How pages speak of jobs: `{% load jobs %}`."""

from __future__ import annotations

from django import template
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from console.jobs.models import Job
from console.jobs.registry import KINDS

register = template.Library()


@register.filter
def kind_label(job: Job) -> str | Promise:
    """What a job's work is called; its plain name where this version knows it no longer."""
    kind = KINDS.get(job.kind)
    return kind.label if kind else job.kind


@register.filter
def next_step(job: Job) -> str:
    """What to do about a failure."""
    match job.error_code:
        case "server_died":
            return _(
                "The log shows where it ended. If memory ran out there, free some or take a smaller model, "
                "then try again."
            )
        case "internal_error":
            return _(
                "This is a fault in Pilothouse. The server's log has the details under the job's id; "
                "trying again is safe."
            )
        case "unknown_kind":
            return _("Whoever took it runs another version. Bring workers and server to the same one.")
    return _("Fix the problem above, then retry: it starts cleanly.")
