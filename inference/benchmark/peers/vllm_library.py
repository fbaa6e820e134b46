"""vLLM as a peer: a folder's weights, or dummy weights of a shape; all settings else as they come."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from inference.benchmark.shapes import shape_config
from inference.benchmark.workloads import Item

GPU_MEMORY = 0.85


class Vllm:
    """`LLM.generate` on token ids, greedy, without detokenizing."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.quantization not in (None, "fp8"):
            raise SystemExit("vLLM is a peer for plain weights and fp8: leave out --quantization")
        vllm: Any = importlib.import_module("vllm")
        self._sampling = vllm.SamplingParams
        folder = options.folder or _described(options.shape)
        given = {"quantization": options.quantization, "kv_cache_dtype": options.kv_dtype}
        self._engine = vllm.LLM(
            model=str(folder),
            load_format="auto" if options.folder else "dummy",
            skip_tokenizer_init=True,
            dtype=options.dtype,
            max_model_len=options.max_model_len,
            gpu_memory_utilization=GPU_MEMORY,
            enable_prefix_caching=options.prefix_caching == "on",
            **{name: value for name, value in given.items() if value is not None},
        )
        self.vocab_size: int = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
        self.versions = {name: importlib.metadata.version(name) for name in ("vllm", "torch", "transformers")}

    def generate(self, items: Sequence[Item]) -> int:
        sampling = [
            self._sampling(
                temperature=0.0, max_tokens=item.num_output_tokens, ignore_eos=True, detokenize=False
            )
            for item in items
        ]
        prompts = [{"prompt_token_ids": list(item.prompt)} for item in items]
        outputs = self._engine.generate(prompts, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)


def _described(shape: str) -> Path:
    folder = Path(tempfile.mkdtemp())
    shape_config(shape).save_pretrained(folder)
    return folder
