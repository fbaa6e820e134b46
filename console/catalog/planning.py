"""What engine settings would come to for a revision on this installation's device, before one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.catalog import footprint, memory
from console.catalog.advice import Plan, advise
from console.catalog.models import Revision


def plan_of(revision: Revision, engine: Mapping[str, Any]) -> Plan:
    """The revision's files with other settings. `engine` has been checked: `importing.check_engine`."""
    kept = {name: getattr(revision, name) for name in ("folder", "files", "facts")}
    draft = Revision(engine=dict(engine), **kept)  # never saved
    config, on = memory.settings_of(draft), memory.device()
    return Plan(
        config,
        draft.facts,
        on,
        weight_bytes=footprint.weight_bytes(draft, config, on),
        pool=footprint.pool_of(draft, config, on),
        most_bytes=memory.allowance(draft),
        budget_bytes=memory.budget(),
    )


def faults(revision: Revision, engine: Mapping[str, Any]) -> dict[str, str]:
    """Why it could not be loaded with these settings, by setting; `memory`: by all of them together."""
    advice = advise(plan_of(revision, engine))
    return {name: said.text for name, said in advice.items() if said.kind == "bad"}
