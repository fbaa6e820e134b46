"""Kinds of work that tests run: in this process, in a real worker and in a real server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console.jobs.models import Job
from console.jobs.registry import JobContext, JobFailed, kind


@kind("test.steps", label="Steps", where=Job.Where.WORKER)
def steps(work: JobContext) -> Mapping[str, Any]:
    """Steps of some seconds each; leaves a line in a file at its begin and at its end."""
    wish = work.arguments
    note(wish, "begun")
    for number in range(wish["steps"]):
        work.progress(f"step {number + 1}", number / wish["steps"])
        time.sleep(wish.get("seconds", 0.0))
        work.check()
    note(wish, "ended")
    return {"steps": wish["steps"]}


@kind("test.fails", label="Fails", where=Job.Where.WORKER)
def fails(work: JobContext) -> Mapping[str, Any]:
    if work.arguments.get("is_fault"):
        raise ZeroDivisionError("a fault")
    raise JobFailed("The disk is full.", code="disk_full")


@kind("test.no_json", label="No JSON", where=Job.Where.ENGINE)
def no_json(work: JobContext) -> Mapping[str, Any]:
    return {"what": object()}


def note(wish: Mapping[str, Any], word: str) -> None:
    if "file" in wish:
        with Path(wish["file"]).open("a") as file:
            file.write(word + "\n")
