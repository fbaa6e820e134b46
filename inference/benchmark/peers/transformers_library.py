"""transformers' own continuous batching as a peer, on the same folder or a random model of the same shape."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from inference.benchmark.shapes import random_weights, shape_config
from inference.benchmark.workloads import WORKLOADS, Item
from inference.config import EngineConfig
from inference.models.device import choose_device, choose_dtype

ATTENTION = "paged|sdpa"
PAGE_SIZE = 256  # tokens: the default, whose name depends on the version
HOST_BATCH_TOKENS = 512  # a step's mask has so many rows, and a column for each token of the pool
WAIT_SECONDS = 5.0
NO_TOKEN = -1  # as the end-of-sequence token: none ends an answer


class Transformers:
    """A manager of continuous batching that runs in its own thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.quantization or options.kv_dtype not in (None, "auto"):
            raise SystemExit("transformers runs unquantized here: leave out --quantization and --kv-dtype")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        config = EngineConfig(dtype=options.dtype)
        device = choose_device(config)
        dtype = choose_dtype(config, device)
        if options.folder:
            model = AutoModelForCausalLM.from_pretrained(
                options.folder, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
            ).to(device)
        else:
            model = random_weights(
                shape_config(options.shape), device=device, dtype=dtype, attention=ATTENTION
            )
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        self._manager = model.eval().init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, eos_token_id=NO_TOKEN, pad_token_id=0, max_new_tokens=1
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                allow_block_sharing=options.prefix_caching == "on",
                **({} if device.type == "cuda" else _host_pool(options.lists, self.vocab_size)),
            ),
        )
        if device.type == "cuda":
            self._manager.warmup()
        self._manager.start()

    def generate(self, items: Sequence[Item]) -> int:
        for item in items:
            self._manager.add_request(
                list(item.prompt), max_new_tokens=item.num_output_tokens, eos_token_id=NO_TOKEN
            )
        num_tokens = num_ended = 0
        while num_ended < len(items):
            result = self._manager.get_result(timeout=WAIT_SECONDS)
            if result is None:
                if not self._manager.is_running():
                    raise RuntimeError("the generation thread of transformers has ended")
                continue
            if result.error:
                raise RuntimeError(f"a request failed: {result.error}")
            if result.is_finished():
                num_ended += 1
                num_tokens += len(result.generated_tokens)
        return num_tokens


def _host_pool(lists: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """Pages for a whole list at once: left to itself it takes most of the machine's memory."""
    needed = [
        sum(
            -(-(len(item.prompt) + item.num_output_tokens) // PAGE_SIZE) + 1
            for item in WORKLOADS[name](vocab_size)
        )
        for name in lists
    ]
    return {"num_blocks": max(needed) + 8, "max_batch_tokens": HOST_BATCH_TOKENS}
