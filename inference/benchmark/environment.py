"""What a figure depends on beside the code: machine, versions, settings, clocks, and which lists were run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from inference.benchmark.shapes import SEED
from inference.benchmark.workloads import Item
from inference.scheduling.engine import Engine

PACKAGES = ("torch", "transformers", "triton", "numpy", "tokenizers")
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "driver_version")


def environment(engine: Engine) -> dict[str, Any]:
    """Of this process, with its engine loaded."""
    found = {
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
        "card": asdict(engine.card),
        "num_blocks": engine.stats().num_blocks,
        "seeds": {"weights": SEED},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["clocks"] = clocks()
    return found


def clocks() -> dict[str, str]:
    """What nvidia-smi reads at this moment; empty where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(CLOCKS, (part.strip() for part in answer.stdout.split(",")), strict=False))


def processor() -> str:
    """The CPU's name, as Linux tells it."""
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fingerprint(items: Sequence[Item]) -> str:
    """Equal for two runs of the very same list."""
    return sha256(repr([(item.prompt, item.num_output_tokens) for item in items]).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
