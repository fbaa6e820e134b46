"""Int8, int4, bfloat16 and float32 revisions under 8 streams while three models load and unload 50 times."""

from __future__ import annotations

from tests.inference.placements.test_loads_beside_streams import ROOT, run_apart
from tests.reliability.loads_beside_streams import LOADED, SERVED

DEFAULT_MODEL = ROOT / "build" / "models" / "smollm2-135m"  # where `make run` has put it


def test_fifty_loads_of_three_models_beside_eight_streams_change_no_text() -> None:
    found = run_apart("--cycles", "50", "--streams", "8", seconds=1800)
    print(found)
    assert found["differing"] == []
    assert found["loads"] == 50 * len(LOADED)
    assert set(found["compared"]) == set(SERVED)


def test_beside_loads_of_the_default_model_as_well() -> None:
    if not DEFAULT_MODEL.is_dir():
        raise AssertionError(f"{DEFAULT_MODEL} is not there: `make run` converts it once")
    found = run_apart("--cycles", "5", "--model", str(DEFAULT_MODEL), seconds=1800)
    print(found)
    assert found["differing"] == []
    assert "given-int8" in found["compared"]
