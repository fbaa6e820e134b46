"""What a certificate asks for: a limit for each figure, and how near a figure comes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

# docs/decisions/0009-certificates.md says why these.
THRESHOLDS: dict[str, dict[str, float]] = {
    "top1_agreement": {"least": 0.90},
    "perplexity_ratio": {"most": 1.05},
    "kl_mean": {"most": 0.03},
    "kl_p99": {"most": 0.30},
    "worst_weight_error": {"most": 0.20},
    "num_broken": {"most": 0},
}
LABELS: dict[str, Promise] = {
    "top1_agreement": gettext_lazy("Top-1 agreement"),
    "perplexity_ratio": gettext_lazy("Perplexity against the parent's"),
    "kl_mean": gettext_lazy("Divergence, mean"),
    "kl_p99": gettext_lazy("Divergence, 99th percentile"),
    "worst_weight_error": gettext_lazy("Weight error of the worst layer"),
    "num_broken": gettext_lazy("NaN outputs"),
}
BEST = {"top1_agreement": 1.0, "perplexity_ratio": 1.0}  # of a model that is its parent; 0 for the others


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and its limit."""

    figure: str
    value: float
    limit: float
    is_least: bool  # the limit is the least that is asked for, not the most that is allowed
    where: str  # the layer, where the figure is one layer's

    @property
    def label(self) -> Promise:
        return LABELS[self.figure]

    @property
    def has_passed(self) -> bool:
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    @property
    def used_percent(self) -> float:
        """Share of the allowed loss, in percent: 0 is the parent itself, 100 the limit."""
        allowed = abs(BEST.get(self.figure, 0.0) - self.limit)
        lost = self.value - BEST.get(self.figure, 0.0)
        lost = max(0.0, -lost if self.is_least else lost)
        if not allowed:
            return 100.0 if lost else 0.0
        return min(100.0, 100 * lost / allowed)

    @property
    def shown(self) -> str:
        return written(self.figure, self.value)

    @property
    def shown_limit(self) -> str:
        return written(self.figure, self.limit)

    @property
    def sentence(self) -> str:
        values = {"label": self.label, "value": self.shown, "limit": self.shown_limit, "where": self.where}
        if self.is_least:
            return _("%(label)s: %(value)s, at least %(limit)s is asked for.") % values
        if self.where:
            return _("%(label)s: %(value)s at %(where)s, at most %(limit)s is allowed.") % values
        return _("%(label)s: %(value)s, at most %(limit)s is allowed.") % values


def checks(figures: Mapping[str, Any], thresholds: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """In the order in which people read them."""
    return [
        Check(
            figure=name,
            value=float(figures[name]),
            limit=thresholds[name].get("least", thresholds[name].get("most", 0.0)),
            is_least="least" in thresholds[name],
            where=str(figures["worst_layer"]) if name == "worst_weight_error" else "",
        )
        for name in LABELS
        if name in thresholds
    ]


def written(figure: str, value: float) -> str:
    """A figure as people read it."""
    match figure:
        case "top1_agreement" | "worst_weight_error":
            return f"{100 * value:.1f} %"
        case "perplexity_ratio":
            return f"{value:.3f}"
        case "num_broken":
            return f"{value:.0f}"
    return f"{value:.4f}"
