"""A repository of a hub at one commit, fetched by a child that goes on where an earlier one was cut."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from console.catalog.conversion import Converted, Progress, run_child
from console.catalog.sources.folder import from_folder
from console.environment import environment

FETCHING = 0.8  # its share of the progress
ONLINE = {
    "HF_HUB_OFFLINE": "0",
    "TRANSFORMERS_OFFLINE": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


NOTE = ".commit"  # beside a model's files: which commit they are of, for a start that finds them there


def is_fetched(target: Path) -> bool:
    """Whether an earlier start had brought everything, and ended before it could register."""
    return (target / NOTE).exists()


def from_hub(
    repository: str,
    *,
    revision: str,
    data_dir: Path,
    target: Path,
    quantize: str | None,
    progress: Progress,
) -> Converted:
    """The model in `target`; its facts name the commit. Raises `ConversionFailed`."""
    if is_fetched(target):
        checked = from_folder(target, target=target, quantize=None, progress=progress)
        return replace(checked, facts={**checked.facts, "commit": (target / NOTE).read_text()})
    env = environment()
    done = run_child(
        "inference.convert.hub",
        *("--kind", env.hub_kind, "--endpoint", env.hub_endpoint),
        *("--repository", repository, "--revision", revision),
        *("--folder", data_dir / "downloads" / "hub"),
        first_line=env.hub_token.get_secret_value() if env.hub_token else "",
        variables=ONLINE,
        progress=lambda stage, part: progress(stage, part * FETCHING),
    )
    fetched = Path(done["folder"])
    checked = from_folder(
        fetched,
        target=target,
        quantize=quantize,
        progress=lambda stage, part: progress(stage, FETCHING + part * (1 - FETCHING)),
    )
    facts = {**checked.facts, "commit": done["commit"]}
    if quantize:  # quantized: what it was made of is not needed any more
        shutil.rmtree(fetched)
        return replace(checked, facts=facts)
    (fetched / NOTE).write_text(done["commit"])
    target.parent.mkdir(parents=True, exist_ok=True)
    fetched.rename(target)
    return replace(checked, folder=target, facts=facts)
