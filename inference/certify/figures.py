"""Agreement of two models on the same texts; little of the first model's output is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

NUM_TOP_TOKENS = 20  # of the parent's tokens at each place, the likeliest
LEAST_REST = 1e-9  # probability of "another token" below which its logarithm means nothing


@dataclass(slots=True)
class ParentLogprobs:
    """The parent's results on one text, a row for each position."""

    token_ids: Tensor  # int64 [num_tokens, NUM_TOP_TOKENS], the likeliest first
    logprobs: Tensor  # float32 [num_tokens, NUM_TOP_TOKENS]
    nll: float  # sum over the text's own tokens of -log p


@dataclass(slots=True)
class Comparison:
    """The child's agreement with its parent on one text."""

    num_tokens: int  # places that were compared
    num_broken: int  # places where the child's logits were not finite
    num_agreed: int  # places where both find the same token the likeliest
    nll: float
    parent_nll: float
    divergences: list[float] = field(default_factory=list)  # KL(parent || child), nats


def parent_logprobs(pieces: Iterable[Tensor], token_ids: list[int]) -> ParentLogprobs:
    """Reduces the parent's logits, `[num_tokens, vocab]` in pieces, to its top tokens."""
    ids, logprobs, nll, done = [], [], 0.0, 0
    for piece in pieces:
        found = _logprobs(piece)
        nll += _nll(found, token_ids, done)
        values, places = found.topk(min(NUM_TOP_TOKENS, found.shape[-1]), dim=-1)
        ids.append(places.cpu())
        logprobs.append(values.cpu())
        done += len(piece)
    return ParentLogprobs(torch.cat(ids), torch.cat(logprobs), nll)


def compare(kept: ParentLogprobs, pieces: Iterable[Tensor], token_ids: list[int]) -> Comparison:
    """Compares the child's logits, in pieces, with its parent's top tokens."""
    result = Comparison(len(kept.token_ids), 0, 0, 0.0, kept.nll)
    done = 0
    for piece in pieces:
        places = slice(done, done + len(piece))
        result.num_broken += int((~piece.isfinite().all(dim=-1)).sum())
        found = _logprobs(piece)
        result.nll += _nll(found, token_ids, done)
        ids = kept.token_ids[places].to(found.device)
        result.num_agreed += int((found.argmax(dim=-1) == ids[:, 0]).sum())
        child = found.gather(-1, ids).cpu()
        result.divergences += divergence(kept.logprobs[places], child).tolist()
        done += len(piece)
    return result


def divergence(parent: Tensor, child: Tensor) -> Tensor:
    """KL(parent || child) of logprobs `[places, NUM_TOP_TOKENS]`, over those tokens and "another token".

    The rest stays in as one outcome: renormalising over the kept tokens alone would hide what moved out.
    """
    p, q = _with_rest(parent), _with_rest(child)
    return (p * (p.log() - q.log())).sum(dim=-1).clamp_min(0)


def perplexity(nll: float, num_tokens: int) -> float:
    """exp(nll / num_tokens), bounded so that a broken model has a finite one."""
    return math.exp(min(nll / max(1, num_tokens), 50.0))


def percentile(values: list[float], share: float) -> float:
    """The value that a `share` of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def common_prefix(first: list[int], second: list[int], *, num_tokens: int) -> int:
    """Tokens until the two differ; equal texts count in full, even where both ended early."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return num_tokens if len(first) == len(second) else min(len(first), len(second))


def _logprobs(logits: Tensor) -> Tensor:
    """float32 log-probabilities; NaN and infinities become finite and are counted elsewhere."""
    finite = torch.nan_to_num(logits.float(), nan=0.0, posinf=1e4, neginf=-1e4)
    return finite.log_softmax(dim=-1)


def _nll(logprobs: Tensor, token_ids: list[int], done: int) -> float:
    """Sum of -log p of the tokens that follow the positions `done ..`; nothing follows the last."""
    following = token_ids[done + 1 : done + 1 + len(logprobs)]
    wanted = torch.tensor(following, device=logprobs.device, dtype=torch.int64)[:, None]
    return -float(logprobs[: len(following)].gather(-1, wanted).double().sum())


def _with_rest(logprobs: Tensor) -> Tensor:
    kept = logprobs.double().exp().clamp_min(1e-30)
    rest = (1 - kept.sum(dim=-1, keepdim=True)).clamp_min(LEAST_REST)
    whole = torch.cat([kept, rest], dim=-1)
    return whole / whole.sum(dim=-1, keepdim=True)
