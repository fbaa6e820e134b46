"""What the panels page shows, as its URL has it: `?range=1h&model=...&split=on`."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from console.catalog.models import Route, ServedModel
from monitoring.panels.drawing import RANGES, Wanted
from monitoring.panels.listing import PANELS
from monitoring.panels.panel import Panel

DEFAULT_RANGE = "1h"
RANGE_NAMES = {
    "15m": _("15 minutes"),
    "1h": _("1 hour"),
    "6h": _("6 hours"),
    "24h": _("24 hours"),
}


class PanelFilterForm(forms.Form):
    """Every field may be left out. What is not valid counts as left out."""

    range = forms.ChoiceField(
        label=_("Range"), choices=[(name, RANGE_NAMES[name]) for name in RANGES], required=False,
        widget=forms.RadioSelect,
    )  # fmt: skip
    model = forms.ChoiceField(label=_("Model"), required=False)
    split = forms.BooleanField(label=_("Split by revision"), required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model = self.fields["model"]
        assert isinstance(model, forms.ChoiceField)
        model.choices = [("", _("all")), *((name, name) for name in model_names())]
        self.full_clean()

    @property
    def chosen_range(self) -> str:
        return self.cleaned_data.get("range") or DEFAULT_RANGE

    def wanted(self) -> Wanted:
        return Wanted(
            range=self.chosen_range,
            model=self.cleaned_data.get("model", ""),
            by_revision=bool(self.cleaned_data.get("split")),
        )


def model_names() -> list[str]:
    """Names that series carry: those that callers ask for, and those of the models behind them."""
    names = {
        *Route.objects.values_list("name", flat=True),
        *ServedModel.objects.values_list("name", flat=True),
    }
    return sorted(names)


def panels_named(ids: list[str]) -> list[Panel]:
    """The panels that a page asks for, in its order; what is not in the list is left out."""
    return [PANELS[one] for one in dict.fromkeys(ids) if one in PANELS]
