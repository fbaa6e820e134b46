"""How the console's templates write figures, times and form controls: `{% load console %}`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django import forms, template
from django.forms import BoundField
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from console.dashboard.engine_state import age
from console.usage.models import RefusedRequest

register = template.Library()
register.filter(age)

UNKNOWN = "–"  # noqa: RUF001 - a dash, as typographers write it

CLASSES: tuple[tuple[type[forms.Widget], str], ...] = (
    (forms.CheckboxInput, "checkbox"),
    (forms.CheckboxSelectMultiple, ""),
    (forms.RadioSelect, ""),
    (forms.Select, "select"),
    (forms.Textarea, "textarea"),
)


@register.filter
def control(field: BoundField) -> SafeString:
    """A form field's control, dressed like every other."""
    widget = field.field.widget
    css = next((css for kind, css in CLASSES if isinstance(widget, kind)), "input")
    return field.as_widget(attrs={"class": css} if css else {})


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, forms.CheckboxInput)


@register.filter
def number(value: float | None, decimals: int = 0) -> str:
    """With thousands separated; what is unknown is a dash."""
    return UNKNOWN if value is None else f"{value:,.{decimals}f}"


@register.filter
def parameters(value: int | None) -> str:
    """How large a model is, as people say it: 135 M, 8.0 B."""
    if not value:
        return UNKNOWN
    return f"{value / 1e9:.1f} B" if value >= 1e9 else f"{value / 1e6:,.0f} M"


@register.filter
def weights(facts: Mapping[str, Any] | None) -> str:
    """What a revision's weights are stored in."""
    known = facts or {}
    return str(known.get("quantization") or known.get("dtype") or UNKNOWN)


@register.filter
def unlocalized(value: float) -> str:
    """A number for an attribute: a point, no separators, whatever the language."""
    return f"{value:g}"


@register.filter
def seconds(value: float | None) -> str:
    """A duration: 184 ms, 1.31 s, 4 min."""
    if value is None:
        return UNKNOWN
    return _("%(number)s s") % {"number": f"{value:.2f}"} if 1 <= value < 90 else age(value)


@register.filter
def moment(value: datetime | None, of_day: str = "%H:%M") -> SafeString:
    """A time of today, a date before that; the whole of it in the title."""
    if value is None:
        return SafeString(UNKNOWN)
    local = timezone.localtime(value)
    is_today = local.date() == timezone.localdate()
    short = local.strftime(of_day if is_today else "%Y-%m-%d")
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        local.strftime("%Y-%m-%d %H:%M:%S %Z"),
        short,
    )


@register.filter
def refusing_limit(row: RefusedRequest) -> str:
    """The limit of a key that refused a request."""
    words = {
        "requests_per_minute": _("%(number)s requests per minute"),
        "tokens_per_minute": _("%(number)s tokens per minute"),
        "budget_tokens": _("budget of %(number)s tokens"),
    }
    return words.get(row.limit, row.limit) % {"number": number(row.limit_value)}


@register.filter
def expiry(value: datetime) -> str:
    """The last day, where a key ends with one; else the moment."""
    utc = value.astimezone(UTC)
    if utc.time() != time():
        return _("until %(moment)s UTC") % {"moment": utc.strftime("%Y-%m-%d %H:%M")}
    return _("through %(day)s (UTC)") % {"day": (utc - timedelta(days=1)).strftime("%Y-%m-%d")}


@register.simple_tag(takes_context=True)
def other_page(context: dict[str, Any], page: int) -> str:
    """This page's URL with another page number: filters stay."""
    query = context["request"].GET.copy()
    query["page"] = page
    return f"?{query.urlencode()}"
