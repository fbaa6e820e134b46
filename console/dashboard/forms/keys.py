"""Forms of the keys' pages: what a key may do, and how much."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from console.accounts.models import Team
from console.catalog.models import ServedModel
from console.keys.models import ApiKey
from console.keys.queries import Order, State
from console.keys.scopes import LABELS, Scope
from console.limits.actions import MOST, MOST_BUDGET, Limits


class FindForm(forms.Form):
    """What the list is narrowed to; anything odd in the address is ignored."""

    words = forms.CharField(label=_("Name or id"), required=False, max_length=100)
    state = forms.ChoiceField(label=_("State"), required=False, choices=[("", _("All")), *State.choices])
    order = forms.ChoiceField(label=_("Order"), required=False, choices=Order.choices)

    def wish(self) -> dict[str, str]:
        self.is_valid()
        return {name: self.cleaned_data.get(name, "") for name in ("words", "state", "order")}


class LimitsForm(forms.Form):
    budget_tokens = forms.IntegerField(
        label=_("Budget, tokens in all"),
        required=False,
        min_value=1,
        max_value=MOST_BUDGET,
        help_text=_("Prompt and output. Answers end exactly at it."),
    )
    requests_per_minute = forms.IntegerField(
        label=_("Requests per minute"), required=False, min_value=1, max_value=MOST
    )
    tokens_per_minute = forms.IntegerField(
        label=_("Tokens per minute"), required=False, min_value=1, max_value=MOST
    )

    def limits(self) -> Limits:
        return Limits(**{name: self.cleaned_data[name] for name in Limits.__dataclass_fields__})


class AccessForm(forms.Form):
    """A key's name, its end, and what it may ask for."""

    name = forms.CharField(
        label=_("Name"), max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    expires_on = forms.DateField(
        label=_("Expires"),
        required=False,
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        help_text=_("Valid through this day (UTC). Leave empty for no expiry."),
    )
    scopes = forms.MultipleChoiceField(
        label=_("Endpoints"),
        choices=list(LABELS.items()),
        initial=Scope.values,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checkbox"}),
        error_messages={"required": _("A key that may call nothing is of no use: tick at least one.")},
    )
    models = forms.MultipleChoiceField(
        label=_("Models"),
        required=False,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checkbox"}),
        help_text=_("None ticked: every model, also those to come."),
    )

    def __init__(self, *args: Any, key: ApiKey | None = None, **kwargs: Any) -> None:
        if key is not None:
            kwargs["initial"] = {
                "name": key.name,
                "expires_on": last_day(key.expires_at),
                "scopes": key.scopes or Scope.values,
                "models": key.allowed_models,
            }
        super().__init__(*args, **kwargs)
        self.key = key
        served = ServedModel.objects.order_by("name").values_list("name", flat=True)
        names = dict.fromkeys([*(key.allowed_models if key else ()), *served])
        field = self.fields["models"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(name, name) for name in sorted(names)]

    def clean_expires_on(self) -> date | None:
        day: date | None = self.cleaned_data["expires_on"]
        if day is not None and day < timezone.now().date() and "expires_on" in self.changed_data:
            raise forms.ValidationError(_("This day is over."))
        return day

    def access(self) -> dict[str, Any]:
        """The arguments of `issue` and `change`. A key with every endpoint also gets those to come."""
        scopes = self.cleaned_data["scopes"]
        return {
            "name": self.cleaned_data["name"],
            "expires_at": self._expires_at(),
            "scopes": [] if set(scopes) == set(Scope.values) else scopes,
            "models": self.cleaned_data["models"],
        }

    def _expires_at(self) -> datetime | None:
        if self.key is not None and "expires_on" not in self.changed_data:
            return self.key.expires_at  # to the second, however it was given
        day: date | None = self.cleaned_data["expires_on"]
        return None if day is None else datetime.combine(day + timedelta(days=1), time(), UTC)


class IssueForm(AccessForm, LimitsForm):
    team = forms.ModelChoiceField(label=_("Team"), queryset=Team.objects.order_by("name"), empty_label=None)
    field_order = ("name", "team", "expires_on", "scopes", "models")


def last_day(moment: datetime | None) -> date | None:
    return None if moment is None else (moment - timedelta(microseconds=1)).astimezone(UTC).date()
