"""The filter of the request log, as its URL has it: `?model=...&outcome=failed&since=1h`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from console.catalog.models import ServedModel
from console.endpoint_registry import endpoints
from console.usage.log import MAX_OWNERS, LogFilter, owners_called
from console.usage.models import Outcome, Transport

SINCE = {
    "15m": (timedelta(minutes=15), _("15 minutes")),
    "1h": (timedelta(hours=1), _("1 hour")),
    "24h": (timedelta(hours=24), _("24 hours")),
    "7d": (timedelta(days=7), _("7 days")),
    "30d": (timedelta(days=30), _("30 days")),
}
ANY = ("", _("any"))
OUTCOMES = (
    (Outcome.FINISHED.value, _("finished")),
    (Outcome.CANCELLED.value, _("cancelled")),
    (Outcome.FAILED.value, _("failed")),
)


def endpoint_choices() -> list[tuple[str, Any]]:
    return [ANY, *((one.name, one.path) for one in endpoints() if one.is_settled)]


def moment_input() -> forms.DateTimeInput:
    return forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")


class RequestFilterForm(forms.Form):
    """Every field may be left out. What is not valid is said, and filters nothing."""

    id = forms.CharField(label=_("Request id"), max_length=100, required=False)
    key = forms.CharField(label=_("Key or person"), max_length=100, required=False)
    model = forms.ChoiceField(label=_("Model"), required=False)
    outcome = forms.ChoiceField(label=_("Status"), choices=[ANY, *OUTCOMES], required=False)
    since = forms.ChoiceField(
        label=_("Arrived within"),
        choices=[ANY, *((value, label) for value, (_delta, label) in SINCE.items())],
        required=False,
    )
    endpoint = forms.ChoiceField(label=_("Endpoint"), choices=endpoint_choices, required=False)
    transport = forms.ChoiceField(
        label=_("Transport"), choices=[ANY, *((one, one) for one in Transport.values)], required=False
    )
    error = forms.CharField(label=_("Error code"), max_length=60, required=False)
    from_ = forms.DateTimeField(label=_("Arrived from (UTC)"), required=False, widget=moment_input())
    until = forms.DateTimeField(label=_("Arrived before (UTC)"), required=False, widget=moment_input())
    min_seconds = forms.FloatField(label=_("Longer than, seconds"), min_value=0, required=False)

    MORE = ("endpoint", "transport", "error", "from_", "until", "min_seconds")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = list(ServedModel.objects.order_by("name").values_list("name", flat=True))
        asked = self.data.get("model", "")
        if asked and asked not in names:  # withdrawn, but its requests are still in the ledger
            names.append(asked)
        model = self.fields["model"]
        assert isinstance(model, forms.ChoiceField)
        model.choices = [ANY, *((name, name) for name in names)]

    def say_if_many(self) -> None:
        """A name that stands for too many is told, beside the rows of the newest of them."""
        name = self.cleaned_data.get("key", "").strip()
        if name and len(owners_called(name)) > MAX_OWNERS:
            message = _("More than %(number)s are called that: these are the newest.")
            self.add_error(None, message % {"number": MAX_OWNERS})

    def log_filter(self) -> LogFilter:
        """What the valid fields ask for."""
        self.full_clean()
        asked = self.cleaned_data
        return LogFilter(
            request_id=asked.get("id", "").strip(),
            owner=asked.get("key", "").strip(),
            model=asked.get("model", ""),
            outcome=asked.get("outcome", ""),
            error_code=asked.get("error", "").strip(),
            endpoint=asked.get("endpoint", ""),
            transport=asked.get("transport", ""),
            arrived_from=self._arrived_from(asked),
            arrived_until=asked.get("until"),
            min_seconds=asked.get("min_seconds"),
        )

    @staticmethod
    def _arrived_from(asked: dict[str, Any]) -> datetime | None:
        given: datetime | None = asked.get("from_")
        since = asked.get("since")
        return timezone.now() - SINCE[since][0] if since and given is None else given

    @property
    def has_more(self) -> bool:
        """Whether a field of those that are folded away is in use."""
        return any(self.data.get(name) for name in self.MORE)
