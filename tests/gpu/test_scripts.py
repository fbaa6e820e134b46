"""The scripts beside these tests: what they import and call by name is there, on any machine."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from inference.benchmark.workloads import fixed

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


def test_no_prompt_of_the_served_benchmark_comes_twice() -> None:
    """Or it would be answered from the prefix cache, and the figure would be of something else."""
    serve = import_module("tests.gpu.serve")
    items = fixed(6, num_prompt_tokens=40)
    lists = [serve.requests_of(items, seed=serve.WARM_UP_SEED + run, vocab_size=5000) for run in range(4)]
    prompts = [prompt for requests in lists for prompt, _ in requests]
    assert len({prompt[:16] for prompt in prompts}) == len(prompts)
    assert all(len(prompt) == 40 for prompt in prompts)
