"""llama.cpp's library as a peer, by llama-cpp-python's low-level calls: batched, greedy, on token ids."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

from inference.benchmark.workloads import Item

BATCH_TOKENS = 512  # of one call; its own default
Token = tuple[int, int, int, bool]  # token id, position, sequence, whether its logits are wanted


class LlamaCpp:
    """One context per list, with room for its sequences; prompts one by one, then all decode in step."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._library: Any = importlib.import_module("llama_cpp")
        self._threads = options.threads or os.cpu_count()
        self._quiet = self._library.llama_log_callback(lambda level, text, data: None)
        self._library.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._library.llama_backend_init()
        parameters = self._library.llama_model_default_params()
        self._model = self._library.llama_model_load_from_file(str(options.gguf).encode(), parameters)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot read {options.gguf}")
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocab_size: int = self._library.llama_vocab_n_tokens(vocabulary)
        self.versions = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")}

    def generate(self, items: Sequence[Item]) -> int:
        context = self._context(items)
        batch = self._library.llama_batch_init(max(BATCH_TOKENS, len(items)), 0, 1)
        try:
            return self._generate(context, batch, items)
        finally:
            self._library.llama_batch_free(batch)
            self._library.llama_free(context)

    def _generate(self, context: Any, batch: Any, items: Sequence[Item]) -> int:
        latest: dict[int, int] = {}  # sequence -> its last token
        lengths = [len(item.prompt) for item in items]
        for sequence, item in enumerate(items):
            tokens = [
                (token_id, position, sequence, position + 1 == len(item.prompt))
                for position, token_id in enumerate(item.prompt)
            ]
            for start in range(0, len(tokens), BATCH_TOKENS):
                self._run(context, batch, tokens[start : start + BATCH_TOKENS])
            latest[sequence] = self._best(context, batch.n_tokens - 1)
        num_output = len(items)
        done = [1] * len(items)
        while True:
            latest = {one: token for one, token in latest.items() if done[one] < items[one].num_output_tokens}
            if not latest:
                return num_output
            self._run(context, batch, [(token, lengths[one], one, True) for one, token in latest.items()])
            for row, one in enumerate(latest):
                latest[one] = self._best(context, row)
                lengths[one] += 1
                done[one] += 1
            num_output += len(latest)

    def _context(self, items: Sequence[Item]) -> Any:
        longest = max(len(item.prompt) + item.num_output_tokens for item in items)
        parameters = self._library.llama_context_default_params()
        parameters.n_seq_max = len(items)
        parameters.n_ctx = len(items) * (longest + 8)
        parameters.n_batch = parameters.n_ubatch = max(BATCH_TOKENS, len(items))
        parameters.n_threads = parameters.n_threads_batch = self._threads
        return self._library.llama_init_from_model(self._model, parameters)

    def _run(self, context: Any, batch: Any, tokens: Sequence[Token]) -> None:
        batch.n_tokens = len(tokens)
        for row, (token_id, position, sequence, wants_logits) in enumerate(tokens):
            batch.token[row] = token_id
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = wants_logits
        failed = self._library.llama_decode(context, batch)
        if failed:
            raise SystemExit(f"llama_decode answered {failed}")

    def _best(self, context: Any, row: int) -> int:
        import numpy as np

        logits = self._library.llama_get_logits_ith(context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())
