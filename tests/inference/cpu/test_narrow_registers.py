"""CPUs with AVX2 alone: the same products, by code for registers half as wide."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.cpu import compiler

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SCRIPT = """
from llvmlite import binding
features = binding.get_host_cpu_features()
features.update({name: False for name in features if name.startswith("avx512")})
binding.get_host_cpu_features = lambda: features
import pytest, sys
from inference.cpu.vectors import lanes
assert lanes() == 8
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_products_are_right_with_them(tmp_path: Path) -> None:
    own = Path(__file__).parent
    tests = [str(own / f"test_{name}.py") for name in ("int4", "bf16", "matmul_single")]
    machine = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests],
        env={**os.environ, **machine, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and "skipped" not in ran.stdout, ran.stdout + ran.stderr
