"""What engine settings would come to for a revision on this installation's device, before one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.catalog.models import Revision
from console.deployments import memory_budget, memory_estimate
from console.deployments.settings_advice import Plan, advise


def plan_of(revision: Revision, engine: Mapping[str, Any]) -> Plan:
    """The revision's files with other settings. `engine` has been checked: `importing.check_engine`."""
    kept = {name: getattr(revision, name) for name in ("folder", "files", "facts")}
    draft = Revision(engine=dict(engine), **kept)  # never saved
    config, on = memory_budget.settings_of(draft), memory_budget.device()
    return Plan(
        config,
        draft.facts,
        on,
        weight_bytes=memory_estimate.weight_bytes(draft, config, on),
        pool=memory_estimate.pool_of(draft, config, on),
        most_bytes=memory_budget.allowance(draft),
        budget_bytes=memory_budget.budget(),
    )


def faults(revision: Revision, engine: Mapping[str, Any]) -> dict[str, str]:
    """Why it could not be loaded with these settings, by setting; `memory`: by all of them together."""
    advice = advise(plan_of(revision, engine))
    return {name: said.text for name, said in advice.items() if said.kind == "bad"}
