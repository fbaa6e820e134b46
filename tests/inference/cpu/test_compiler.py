"""Where nothing can be compiled, torch multiplies as before; compiled code is kept where one can write."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.cpu import compiler
from inference.fused.cpu import CpuFusedModel
from inference.quantization import int8_cpu
from tests.inference import tiny


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was found out about the machine is forgotten, before and after."""
    for found in (compiler.works, int8_cpu.is_exact):
        found.cache_clear()
    yield
    for found in (compiler.works, int8_cpu.is_exact):
        found.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_numba_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not compiler.works()
    assert int8_cpu.by_compiled_code not in int8_cpu.candidates(torch.float32, 64)
    assert CpuFusedModel(tiny.tiny_model("llama")).compiled is None


@pytest.mark.usefixtures("fresh")
def test_a_wrong_product_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.cpu.matmul_single.passes_self_test", lambda: False)
    assert not compiler.works()


def test_the_folder_changes_with_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = compiler.cache_folder("1.0"), compiler.cache_folder("2.0")
    assert first.is_dir() and first != second and first.is_relative_to(tmp_path)


def test_the_first_of_a_machine_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert compiler.is_new_here()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "step.run-55.py311.1.nbc").touch()
    assert not compiler.is_new_here()


def test_where_nothing_can_be_written_a_folder_of_the_process_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    folder = compiler.cache_folder("1.0")
    assert folder.is_dir() and not folder.is_relative_to(tmp_path / "file")


def test_compiled_functions_are_kept_by_the_sum_of_all_sources_whoever_imports_them_first() -> None:
    """Beside its source it would be kept by that file's own age, and run when others have changed."""
    program = (
        "import numba, inference.fused.cpu_compiled, inference.cpu.step as step\n"
        "from inference.cpu import compiler\n"
        "assert numba.config.CACHE_DIR == str(compiler.cache_folder(numba.__version__))\n"
        "assert step.run.stats.cache_path.startswith(numba.config.CACHE_DIR), step.run.stats.cache_path"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
