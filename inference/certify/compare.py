"""The child process that compares a revision with its parent: both are measured as they are served."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from inference import corpus
from inference.checkpoints.model_folder import UnsafeModel, check_folder
from inference.child_process import progress, report
from inference.config import EngineConfig

if TYPE_CHECKING:
    from torch import Tensor

    from inference.certify.figures import Comparison, ParentLogprobs
    from inference.certify.serving import Serving
    from inference.models.loader import LoadedModel

MAX_TEXT = 512  # tokens of each text
NUM_PROMPT = 32  # tokens of a text that are continued
NUM_GREEDY = 64  # tokens that they are continued with
NUM_LAYERS_KEPT = 400  # of the figures by layer, the worst


class NotComparable(ValueError):
    """The two have different vocabularies: no figure would mean anything."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text as tokens of the parent's tokenizer, truncated to the shorter context."""

    kind: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Parent:
    """The parent's results, kept once it has left memory."""

    texts: list[Text]
    kept: list[ParentLogprobs]
    continuations: list[list[int]]
    sketch: dict[str, Tensor]
    vocab_size: int
    weight_bytes: int
    served_as: dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    return report(
        lambda: run(options),
        with_parent=options.with_parent,
        codes={UnsafeModel: "unsafe_model", NotComparable: "not_comparable"},
        otherwise="cannot_measure",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the parent, unloads it, measures the revision: the contents of a certificate."""
    started = time.monotonic()
    progress("starting torch", 0.0)
    import torch
    import transformers

    config, parent_config = _config(options.settings), _config(options.parent_settings)
    sizes = [_disk_bytes(folder) for folder in (options.revision_folder, options.parent_folder)]
    parent = _measure_parent(options.parent_folder, parent_config, longest=_longest(config))
    figures, served_as = _measure_child(options.revision_folder, config, parent)
    return {
        "corpus_digest": corpus.digest(),
        "measured_by": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "revision": served_as,
            "parent": parent.served_as,
        },
        "figures": {
            "size_bytes": sizes[0],
            "parent_size_bytes": sizes[1],
            **figures,
            "seconds": round(time.monotonic() - started, 1),
        },
    }


def _measure_parent(folder: Path, config: EngineConfig, *, longest: int) -> Parent:
    from inference.certify.figures import parent_logprobs
    from inference.quantization.layer_error import sketch

    with _loaded(folder, config, stage="loading the parent", share=(0.02, 0.1)) as loaded:
        texts = _tokenized(loaded, longest=min(longest, loaded.max_model_len))
        served = _serving(loaded, config, texts)
        kept = []
        for index, text in enumerate(texts):
            progress("measuring the parent", 0.1 + 0.3 * index / len(texts))
            kept.append(parent_logprobs(served.logits(text.token_ids), text.token_ids))
        progress("continuing texts with the parent", 0.4)
        continuations = served.continuations(_prompts(texts), _num_greedy(texts))
        return Parent(
            texts=texts,
            kept=kept,
            continuations=continuations,
            sketch=sketch(loaded.model),
            vocab_size=loaded.vocab_size,
            weight_bytes=loaded.weight_bytes,
            served_as=_served_as(loaded),
        )


def _measure_child(
    folder: Path, config: EngineConfig, parent: Parent
) -> tuple[dict[str, Any], dict[str, Any]]:
    from inference.certify.figures import compare
    from inference.quantization.layer_error import sketch, sketched_errors

    texts = parent.texts
    with _loaded(folder, config, stage="loading the revision", share=(0.5, 0.6)) as loaded:
        _check_comparable(loaded, parent)
        served = _serving(loaded, config, texts)
        compared = []
        for index, (text, kept) in enumerate(zip(texts, parent.kept, strict=True)):
            progress("measuring the revision", 0.6 + 0.3 * index / len(texts))
            compared.append(compare(kept, served.logits(text.token_ids), text.token_ids))
        progress("continuing texts with the revision", 0.9)
        continuations = served.continuations(_prompts(texts), _num_greedy(texts))
        progress("comparing weights", 0.98)
        errors = sketched_errors(parent.sketch, sketch(loaded.model))
        if not errors:
            raise NotComparable("the two have no layer in common")
        return {
            "weight_bytes": loaded.weight_bytes,
            "parent_weight_bytes": parent.weight_bytes,
            **_of_all(compared),
            **_of_continuations(parent.continuations, continuations, num_tokens=_num_greedy(texts)),
            "texts": [_of_text(text.kind, one) for text, one in zip(texts, compared, strict=True)],
            "worst_layer": errors[0].name,
            "worst_weight_error": errors[0].weight_error,
            "mean_weight_error": mean(layer.weight_error for layer in errors),
            "num_layers": len(errors),
            "layers": [
                {"name": layer.name, "weight_error": layer.weight_error} for layer in errors[:NUM_LAYERS_KEPT]
            ],
        }, _served_as(loaded)


def _of_all(compared: list[Comparison]) -> dict[str, Any]:
    from inference.certify.figures import percentile, perplexity

    num_tokens = sum(one.num_tokens for one in compared)
    num_predicted = num_tokens - len(compared)  # nothing follows a text's last token
    own = perplexity(sum(one.nll for one in compared), num_predicted)
    before = perplexity(sum(one.parent_nll for one in compared), num_predicted)
    divergences = [value for one in compared for value in one.divergences]
    return {
        "num_tokens": num_tokens,
        "num_broken": sum(one.num_broken for one in compared),
        "perplexity": own,
        "parent_perplexity": before,
        "perplexity_ratio": own / before,
        "top1_agreement": sum(one.num_agreed for one in compared) / num_tokens,
        "kl_mean": mean(divergences),
        "kl_p99": percentile(divergences, 0.99),
    }


def _of_text(kind: str, one: Comparison) -> dict[str, Any]:
    figures = _of_all([one])
    return {"kind": kind} | {
        name: figures[name]
        for name in ("num_tokens", "perplexity", "parent_perplexity", "top1_agreement", "kl_mean")
    }


def _of_continuations(parents: list[list[int]], own: list[list[int]], *, num_tokens: int) -> dict[str, Any]:
    from inference.certify.figures import common_prefix

    lengths = [
        common_prefix(first, second, num_tokens=num_tokens)
        for first, second in zip(parents, own, strict=True)
    ]
    return {"greedy_prefix": mean(lengths), "greedy_tokens": num_tokens, "num_prompts": len(lengths)}


@contextmanager
def _loaded(
    folder: Path, config: EngineConfig, *, stage: str, share: tuple[float, float]
) -> Iterator[LoadedModel]:
    """Loads the model for the block and unloads it: memory holds one at a time."""
    import torch

    from inference.execution.dtype_choice import load

    start, end = share
    check_folder(folder)
    loaded = load(folder, config, lambda found: progress(stage, start + (end - start) * found.fraction))
    try:
        yield loaded
    finally:
        loaded.model.to("meta")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _tokenized(loaded: LoadedModel, *, longest: int) -> list[Text]:
    room = min(MAX_TEXT, longest)
    encoded = ((kind, list(loaded.tokenizer.encode(text))[:room]) for kind, text in corpus.texts().items())
    return [Text(kind, token_ids) for kind, token_ids in encoded if len(token_ids) > 1]


def _check_comparable(loaded: LoadedModel, parent: Parent) -> None:
    if loaded.vocab_size != parent.vocab_size:
        raise NotComparable(
            f"not the same model: the parent knows {parent.vocab_size} tokens, the other {loaded.vocab_size}"
        )
    own = {text.kind: text.token_ids for text in _tokenized(loaded, longest=MAX_TEXT)}
    for text in parent.texts:
        if own[text.kind][: len(text.token_ids)] != text.token_ids:
            raise NotComparable("not the same model: the tokenizers cut the same text differently")


def _serving(loaded: LoadedModel, config: EngineConfig, texts: list[Text]) -> Serving:
    from inference.certify.serving import serving

    longest = max(len(text.token_ids) for text in texts)
    return serving(loaded, config, longest=max(longest, NUM_PROMPT + _num_greedy(texts)))


def _prompts(texts: list[Text]) -> list[list[int]]:
    return [text.token_ids[:NUM_PROMPT] for text in texts]


def _num_greedy(texts: list[Text]) -> int:
    """Tokens of a greedy continuation; fewer than NUM_GREEDY where the context is short."""
    return max(1, min(NUM_GREEDY, max(len(text.token_ids) for text in texts) - NUM_PROMPT))


def _longest(config: EngineConfig) -> int:
    return min(MAX_TEXT, config.max_model_len or MAX_TEXT)


def _served_as(loaded: LoadedModel) -> dict[str, Any]:
    card = loaded.card("")
    return {
        "device": card.device,
        "dtype": card.dtype,
        "quantization": card.quantization,
        "attention": loaded.attention if loaded.batching else "model",
        "batching": loaded.batching,
    }


def _config(settings: str) -> EngineConfig:
    return EngineConfig(**json.loads(settings))


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in check_folder(folder).values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference.certify.compare", description=__doc__)
    parser.add_argument("--revision-folder", type=Path, required=True)
    parser.add_argument("--parent-folder", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="fields of EngineConfig, as JSON")
    parser.add_argument("--parent-settings", default="{}", help="the same of the parent")
    parser.add_argument("--with-parent", action="store_true", help="cancel when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
