"""The scripts beside these tests: what they import and call by name is there, on any machine."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if not path.stem.startswith("test_") and path.stem != "__init__"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports(name: str) -> None:
    try:
        import_module(f"tests.gpu.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        pytest.skip("triton is on GPU machines alone")
