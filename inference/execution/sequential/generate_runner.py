"""transformers' `generate` as a runner of steps: one sequence at a time, one token at a time.

`generate` runs in a thread of its own and hands over the scores of each next token; it goes on when it is
told which token was chosen. So the loop around it keeps its limits, deadlines and cancellation.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence as Seq
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from inference.models.loader import LoadedModel
from inference.scheduling.step_input import StepInput


class GenerationEnded(Exception):
    """Raised inside `generate`, to leave it."""


class Generation(LogitsProcessor):  # type: ignore[misc]  # transformers' classes are Any here
    """One run of `generate`, from a prompt on until nobody wants its next token."""

    def __init__(self, loaded: LoadedModel, prompt: Seq[int]) -> None:
        self._loaded = loaded
        self._prompt = list(prompt)
        self._scores: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        self._chosen: SimpleQueue[int | None] = SimpleQueue()  # None: leave
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    def next_scores(self) -> Tensor:
        """Wait for the scores of the next token, `[1, vocab]`. Raises what `generate` raised."""
        scores = self._scores.get()
        if isinstance(scores, BaseException):
            raise scores
        return scores

    def choose(self, token_id: int) -> None:
        """Tell which token follows; `generate` computes the scores of the one after it."""
        self._chosen.put(token_id)

    def end(self) -> None:
        """Leave `generate`, and wait until its memory is free."""
        self._chosen.put(None)
        self._thread.join()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._scores.put(scores)
        token_id = self._chosen.get()
        if token_id is None:
            raise GenerationEnded
        if token_id == int(scores.argmax()):
            return scores  # greedy: the choice is left to `generate`
        return torch.full_like(scores, float("-inf")).index_fill_(
            1, torch.tensor([token_id], dtype=torch.int64, device=scores.device), 0.0
        )

    def _run(self) -> None:
        loaded = self._loaded
        prompt = torch.tensor([self._prompt], dtype=torch.int64, device=loaded.device)
        try:
            loaded.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                # one more than can be asked for: the scores after the last token are never computed
                max_new_tokens=loaded.max_model_len - len(self._prompt) + 1,
                do_sample=False,
                logits_processor=LogitsProcessorList([self]),
            )
        except GenerationEnded:
            return
        except BaseException as error:  # the loop's thread raises it where it waits
            self._scores.put(error)


class GenerateRunner:
    """Runs steps of one chunk. Its block pool is book-keeping only: `generate` holds its own cache."""

    def __init__(self, loaded: LoadedModel, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._loaded = loaded
        self._request_id = ""
        self._table_id = -1  # of the sequence that is being generated
        self._generation: Generation | None = None
        # What the folder prefers (sampling, penalties, stop tokens) is the request's business here.
        loaded.model.generation_config = GenerationConfig()

    def run(self, step: StepInput) -> Any:
        """Scores of the next token, `[1, vocab]`."""
        try:
            return self._run(step)
        except BaseException:
            self.end()
            raise

    def _run(self, step: StepInput) -> Tensor:
        [request_id], [table_id], [start] = step.request_ids, step.table_ids, step.starts
        if self._generation is not None and table_id == self._table_id and start > 0:
            self._generation.choose(int(step.token_ids[0]))
        else:
            self.end()
            self._request_id, self._table_id = request_id, table_id
            self._generation = Generation(self._loaded, step.token_ids.tolist())
        return self._generation.next_scores()

    def zero_blocks(self, block_ids: Seq[int]) -> None:
        """Nothing to do: a generation's cache dies with it."""

    def end(self, request_id: str | None = None) -> None:
        """End the generation that is under way; only that of `request_id`, where one is given."""
        if self._generation is not None and request_id in (None, self._request_id):
            self._generation.end()
            self._generation = None
