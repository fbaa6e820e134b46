"""Forms of the rollouts' pages: the steps of a new rollout, and the shares of a route."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from console.catalog.models import PUBLIC_NAME, Revision, Route
from console.rollouts.state_machine import ALL, BadSteps, Step, check_steps

NUM_STEPS = 5
NUM_ARMS = 4
PAUSES = (
    ("", _("manual")),
    ("30", _("30 seconds")),
    ("60", _("1 minute")),
    ("300", _("5 minutes")),
    ("900", _("15 minutes")),
    ("3600", _("1 hour")),
    ("14400", _("4 hours")),
    ("86400", _("1 day")),
)
PRESETS: dict[str, tuple[Step, ...]] = {
    "careful": (Step(10, 300), Step(50, 300), Step(ALL)),
    "quick": (Step(10, 30), Step(50, 30), Step(ALL)),
    "by-hand": (Step(10), Step(50), Step(ALL)),
}
DEFAULT_PRESET = "careful"


class StartForm(forms.Form):
    """Which route, which candidate, in which steps. Rows without a share are left out."""

    route = forms.ModelChoiceField(label=_("Route"), queryset=Route.objects.none(), empty_label=None)
    another_model = forms.BooleanField(
        label=_("Send this route's callers to a different model"),
        required=False,
        help_text=_("Offers the revisions of every model: callers keep the name, another model answers."),
    )
    candidate = forms.ChoiceField(label=_("Candidate"))
    reason = forms.CharField(
        label=_("Reason"), max_length=300, required=False, help_text=_("Optional; kept in the audit log.")
    )
    version = forms.IntegerField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, offered: Iterable[Revision], preset: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        route, candidate = self.fields["route"], self.fields["candidate"]
        assert isinstance(route, forms.ModelChoiceField) and isinstance(candidate, forms.ChoiceField)
        route.queryset = self.routes()
        route.to_field_name = "name"
        candidate.choices = [("", _("Choose a revision")), *by_model(offered)]
        steps = PRESETS.get(preset, PRESETS[DEFAULT_PRESET])
        for number in range(NUM_STEPS):
            step = steps[number] if number < len(steps) else None
            self.fields[f"weight_{number}"] = forms.IntegerField(
                label=_("Share of step %(number)s, percent") % {"number": number + 1},
                min_value=1,
                max_value=ALL,
                required=False,
                initial=step.weight if step else None,
            )
            self.fields[f"pause_{number}"] = forms.ChoiceField(
                label=_("Pause of step %(number)s") % {"number": number + 1},
                choices=PAUSES,
                required=False,
                initial=str(step.pause_seconds or "") if step else "300",
            )

    @staticmethod
    def routes() -> QuerySet[Route]:
        """Names that something answers to."""
        return Route.objects.filter(arms__weight__gt=0).distinct().order_by("name")

    @property
    def rows(self) -> Iterator[tuple[forms.BoundField, forms.BoundField]]:
        """Share and pause of each step."""
        return ((self[f"weight_{number}"], self[f"pause_{number}"]) for number in range(NUM_STEPS))

    def clean(self) -> dict[str, Any]:
        try:
            check_steps(self.steps())
        except BadSteps:
            self.add_error(None, _("Give at least one step, and let the shares grow from step to step."))
        return self.cleaned_data

    def steps(self) -> tuple[Step, ...]:
        found = self.cleaned_data
        rows = [(found.get(f"weight_{one}"), found.get(f"pause_{one}")) for one in range(NUM_STEPS)]
        return tuple(Step(weight, int(pause) if pause else None) for weight, pause in rows if weight)


class SharesForm(forms.Form):
    """A public name and the revisions that answer to it. Rows without a revision are left out."""

    name = forms.CharField(
        label=_("Name"),
        max_length=64,
        validators=[PUBLIC_NAME],
        help_text=_("What callers send as `model`: small letters, digits, '.', '_' and '-'."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    version = forms.IntegerField(widget=forms.HiddenInput, required=False)

    def __init__(
        self, *args: Any, offered: Iterable[Revision], arms: dict[str, int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        choices = [("", _("none")), *by_model(offered)]
        now = list((arms or {}).items())
        for number in range(max(NUM_ARMS, len(now) + 1)):
            revision, weight = now[number] if number < len(now) else ("", None)
            self.fields[f"revision_{number}"] = forms.ChoiceField(
                label=_("Revision %(number)s") % {"number": number + 1},
                choices=choices,
                required=False,
                initial=revision,
            )
            self.fields[f"share_{number}"] = forms.IntegerField(
                label=_("Share of revision %(number)s, percent") % {"number": number + 1},
                min_value=0,
                max_value=ALL,
                required=False,
                initial=weight,
            )
        self.num_rows = max(NUM_ARMS, len(now) + 1)

    @property
    def rows(self) -> Iterator[tuple[forms.BoundField, forms.BoundField]]:
        return ((self[f"revision_{one}"], self[f"share_{one}"]) for one in range(self.num_rows))

    def clean(self) -> dict[str, Any]:
        weights = self.weights()
        if sum(weights.values()) != ALL:
            message = _("The shares sum to %(sum)s %%, not to 100 %%.") % {"sum": sum(weights.values())}
            self.add_error(None, message)
        return self.cleaned_data

    def weights(self) -> dict[str, int]:
        found = self.cleaned_data
        rows = [(found.get(f"revision_{one}"), found.get(f"share_{one}")) for one in range(self.num_rows)]
        shares: dict[str, int] = {}
        for revision, share in rows:
            if revision and share:
                shares[revision] = shares.get(revision, 0) + share
        return shares


def by_model(offered: Iterable[Revision]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Revisions as choices, grouped by their model."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for revision in offered:
        groups.setdefault(revision.model.name, []).append((revision.pk, revision.pk))
    return sorted(groups.items())
