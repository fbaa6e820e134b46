"""A real engine over random weights of a well-known shape, first measured alone and then served, so that one
run has both sides of the ratio.

`stub.json` in the revision's folder sets it: {"shape": "llama-8b", "quantization": null, "streams": [256],
"tokens": 400}. At its end it writes `steps.json` into the data directory, with what the engine made alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from inference.benchmark.shapes import random_model
from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.execution.build import assemble
from inference.host import Served
from inference.placements.inprocess import placement as inprocess
from inference.protocol.events import Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.protocol.stats import LoadProgress
from inference.scheduling.engine import Engine
from tests.inference.plain_prompts import PlainDesk
from tests.load.paced import TEMPLATE
from tests.stub_engine import steering

MAX_MODEL_LEN = 2048
NUM_PROMPT_TOKENS = 70  # about what the readers' prompts come to, in bytes


@dataclass
class Log:
    """What `steps.json` will hold: times are time.monotonic(), in seconds."""

    thread: int = 0  # of the engine, as the kernel numbers it
    submitted: list[float] = field(default_factory=list)
    steps: list[tuple[float, float, float, int]] = field(default_factory=list)  # began, ended, ended, tokens
    alone: dict[int, float] = field(default_factory=dict)  # streams -> tokens/s

    def watch(self, engine: Engine) -> None:
        """Write down each step and each arrival."""
        step, submit = engine.step, engine.submit

        def noted_step() -> bool:
            self.thread = threading.get_native_id()
            before, began = engine.stats().num_generated_tokens, time.monotonic()
            can_go_on = step()
            ended = time.monotonic()
            self.steps.append((began, ended, ended, engine.stats().num_generated_tokens - before))
            return can_go_on

        def noted_submit(request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
            self.submitted.append(time.monotonic())
            submit(request, on_event)

        engine.step = noted_step  # type: ignore[method-assign]
        engine.submit = noted_submit  # type: ignore[method-assign]

    def speed_alone(self, engine: Engine, *, num_streams: int, num_tokens: int) -> float:
        """Tokens/s while all streams run, with nothing beside the engine."""
        self.steps.clear()
        for number in range(num_streams):
            request = GenerateRequest(
                request_id=f"alone-{number}",
                revision=engine.card.revision,
                token_ids=tuple((number * 31 + position) % 200 for position in range(NUM_PROMPT_TOKENS)),
                owner=Owner("alone", f"alone with {num_streams}"),
                sampling=Sampling(max_tokens=num_tokens, ignore_eos=True, temperature=0.0),
            )
            engine.submit(request, lambda event: None)
        while engine.has_work:
            engine.step()
        full = [step for step in self.steps if step[3] == num_streams]
        return num_streams * (len(full) - 1) / (full[-1][1] - full[0][1])


class ShapedPlacement(inprocess.InProcess):
    """The real placement; what it loads has a shape, and weights that mean nothing."""

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._log = Log()
        inprocess.load = self._load_shaped

    def _load_shaped(
        self, spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig
    ) -> Served:
        wanted = steering(spec)
        config = EngineConfig(quantization=wanted["quantization"], prefix_caching=False)
        loaded = random_model(wanted["shape"], config, max_model_len=MAX_MODEL_LEN)
        loaded.tokenizer.chat_template = TEMPLATE
        engine = assemble(loaded, replace(spec, engine=config), progress)
        log = self._log
        log.watch(engine)
        for num_streams in wanted["streams"]:
            for _ in range(2):  # the first one warms up
                speed = log.speed_alone(engine, num_streams=num_streams, num_tokens=wanted["tokens"])
            log.alone[num_streams] = speed
        log.steps.clear()
        log.submitted.clear()
        return Served(engine, loaded, PlainDesk(loaded))

    async def stop(self) -> None:
        await super().stop()
        told: dict[str, Any] = vars(self._log)
        (self.config.data_dir / "steps.json").write_text(json.dumps(told))
