"""The scripts beside these tests: what they import and call by name is there, on any machine."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from importlib import import_module
from pathlib import Path

import pytest

from inference.benchmark.workloads import fixed

HERE = Path(__file__).parent
SCRIPTS = sorted(
    ".".join(path.relative_to(HERE).with_suffix("").parts)
    for path in HERE.rglob("*.py")
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


def test_two_checkouts_are_compared_stage_by_stage(tmp_path: Path) -> None:
    compare = import_module("tests.gpu.compare_commits")
    database = sqlite3.connect(tmp_path / "pilothouse.sqlite3")
    database.execute("CREATE TABLE usage_usagerecord (spans TEXT)")
    for seconds in (1.0, 2.0, 4.0):
        spans = [
            {"name": "prepare", "start": 0.0, "end": seconds},
            {"name": "decode", "start": seconds, "end": seconds + 1.0},
            {"name": "decode", "start": seconds + 1.0, "end": seconds + 2.0},
        ]
        database.execute("INSERT INTO usage_usagerecord VALUES (?)", [json.dumps(spans)])
    database.commit()
    database.close()
    found = compare.stages(tmp_path / "pilothouse.sqlite3")
    assert found["prepare ms p50"] == 2000 and found["prepare ms p95"] == 4000
    assert found["decode ms p50"] == 2000
    told = compare.table([{"a": 4.0}, {"a": 2.0}, {"a": 3.0}], [{"a": 6.0, "b": 1.0}])
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}
    assert rows == {"a": ["3.00", "6.00", "2.000"], "b": ["-", "1.00", "-"]}


def test_an_old_checkout_may_come_as_a_tar(tmp_path: Path) -> None:
    compare = import_module("tests.gpu.compare_commits")
    (tmp_path / "manage.py").write_text("print()")
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        archive.add(tmp_path / "manage.py", "manage.py")
    assert (compare.unpacked(tmp_path / "old.tar", tmp_path / "work") / "manage.py").is_file()
    assert compare.unpacked(tmp_path, tmp_path / "work") == tmp_path
