"""Chooses every row's next token by its own parameters; rows that need less get less work."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from inference.protocol.events import TokenLogprob
from inference.protocol.requests import Sampling
from inference.sampling.logits_processors import adjust
from inference.sampling.randomness import uniform
from inference.scheduling.interfaces import Sampled
from inference.scheduling.step_input import SamplingInput, is_adjusted
from inference.text.vocabulary import TokenBytes

# Below it a division would overflow float32, and the largest logit wins anyway.
SMALLEST_TEMPERATURE = 1e-5
# top_p looks at this many tokens first and sorts the whole vocabulary only where they are too few.
NUM_CANDIDATES = 1024
# The likeliest token's share as a whole number. Sums of whole numbers are exact, so they depend neither on
# the order in which a device adds nor on how many rows it has; 2**18 such shares fit into 63 bits.
LARGEST_SHARE = 2.0**44


class BatchSampler:
    """One model's sampler. A row's outcome depends on its logits, parameters, seed and position alone."""

    def __init__(
        self,
        vocab_size: int,
        vocabulary: TokenBytes,
        *,
        eos_token_ids: Seq[int] = (),
    ) -> None:
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(token_id for token_id in eos_token_ids if token_id < vocab_size)
        self._vocabulary = vocabulary

    @torch.inference_mode()
    def sample(self, logits: Tensor, sampling: SamplingInput) -> list[Sampled]:
        """One outcome a row of `logits`, `[num_rows, vocab]`; `token_id=None` where they are not finite."""
        chosen, usable = self.choose(logits, sampling)
        return [
            Sampled(token_id=token_id, logprob=self._logprob(logits[row], token_id, sampling.params[row]))
            if is_usable
            else Sampled(token_id=None)
            for row, (token_id, is_usable) in enumerate(zip(chosen.tolist(), usable.tolist(), strict=True))
        ]

    @torch.inference_mode()
    def choose(self, logits: Tensor, sampling: SamplingInput) -> tuple[Tensor, Tensor]:
        """Token ids `[num_rows]`, and where they can be used; both on the logits' device."""
        params, positions = sampling.params, sampling.positions
        largest, chosen = logits.max(dim=-1)  # NaN and infinity both show in the maximum
        adjusted = [row for row, one in enumerate(params) if is_adjusted(one, positions[row])]
        drawn = [row for row, one in enumerate(params) if is_drawn(one)]
        usable = largest.isfinite()
        if not (adjusted or drawn):
            return chosen, usable
        scores = logits.float()
        if adjusted and scores is logits:
            scores = scores.clone()
        for row in adjusted:
            adjust(
                scores[row],
                params[row],
                position=positions[row],
                token_ids=sampling.token_ids[row],
                eos_token_ids=self.eos_token_ids,
            )
            best, chosen[row] = scores[row].max(dim=-1)
            usable[row] &= best.isfinite()  # not where every token is forbidden by now
        if drawn:
            randoms = [uniform(seed=sampling.seeds[row], position=positions[row]) for row in drawn]
            chosen[drawn] = draw(scores[drawn], [params[row] for row in drawn], randoms)
        return chosen, usable

    def _logprob(self, raw: Tensor, token_id: int, params: Sampling) -> TokenLogprob | None:
        num_top = params.logprobs
        if num_top is None:
            return None
        logprobs = raw.to(torch.float32, copy=True).log_softmax(dim=-1)  # [vocab]; where it lies is the same
        best = logprobs.topk(min(num_top, self.vocab_size))
        top = [
            self._entry(top_id, logprob)
            for top_id, logprob in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        is_hidden = params.skip_special_tokens and token_id in self._vocabulary.special_ids
        return self._entry(token_id, float(logprobs[token_id]), tuple(top), is_shown=not is_hidden)

    def _entry(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = (), *, is_shown: bool = True
    ) -> TokenLogprob:
        return TokenLogprob(
            token_id=token_id,
            text=self._vocabulary.text(token_id),
            raw=self._vocabulary.raw(token_id),
            logprob=logprob,
            top=top,
            is_shown=is_shown,
        )


def is_drawn(sampling: Sampling) -> bool:
    """Whether chance decides; otherwise the largest logit does."""
    return sampling.temperature >= SMALLEST_TEMPERATURE


def draw(scores: Tensor, samplings: Seq[Sampling], randoms: Seq[float]) -> Tensor:
    """Token ids `[num_rows]`, each drawn from its row's filtered distribution by its one random number."""
    device = scores.device
    temperatures = column([sampling.temperature for sampling in samplings], torch.float32, device)
    scores = scores / temperatures
    filtered = [row for row, sampling in enumerate(samplings) if is_filtered(sampling)]
    if filtered:
        thresholds = lowest_scores(scores[filtered], [samplings[row] for row in filtered])
        kept = scores[filtered]
        scores[filtered] = kept.masked_fill(kept < thresholds[:, None], float("-inf"))
    cumulative = whole_shares(scores, scores.amax(dim=-1)).cumsum(dim=-1)  # [num_rows, vocab]
    points = column(randoms, torch.float64, device) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, points.long(), right=True)[:, 0]
    return chosen.clamp_(max=scores.shape[-1] - 1)


def column(numbers: Seq[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[num_rows, 1]`, one number for each row."""
    return torch.tensor(numbers, dtype=dtype, device=device)[:, None]


def whole_shares(scores: Tensor, best: Tensor) -> Tensor:
    """What each score comes to beside the best of its row, `[num_rows]`: whole numbers to LARGEST_SHARE."""
    return ((scores - best[:, None]).exp().double() * LARGEST_SHARE).long()


def is_filtered(sampling: Sampling) -> bool:
    """Whether some tokens are left out before drawing."""
    return sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.min_p > 0.0


def lowest_scores(scores: Tensor, samplings: Seq[Sampling], num_candidates: int = NUM_CANDIDATES) -> Tensor:
    """The lowest score that top_k, then top_p, then min_p leave in each row; equal scores stay together.

    Thresholds rather than sorted lists: the rows stay in the vocabulary's order and no result depends on
    how many candidates a neighbour in the batch needs.
    """
    vocab_size = scores.shape[-1]
    top_ks = [min(sampling.top_k or vocab_size, vocab_size) for sampling in samplings]
    wanted = [top_k for top_k in top_ks if top_k < vocab_size]
    num_candidates = min(vocab_size, max([num_candidates, *wanted]))
    best = scores.topk(num_candidates).values  # [num_rows, num_candidates], descending
    device = scores.device
    ranks = torch.arange(num_candidates, dtype=torch.int64, device=device)
    last = column(top_ks, torch.int64, device).clamp(max=num_candidates) - 1
    is_top_k = column([top_k < vocab_size for top_k in top_ks], torch.bool, device)[:, 0]
    limited = best.masked_fill(ranks > last, float("-inf"))
    shares = whole_shares(limited, best[:, 0])
    total = torch.where(is_top_k, shares.sum(dim=-1), whole_shares(scores, best[:, 0]).sum(dim=-1))
    before = shares.cumsum(dim=-1) - shares  # the share of all better tokens
    top_p = column([sampling.top_p for sampling in samplings], torch.float32, device).double()
    num_kept = ((before < top_p * total[:, None]) & (ranks <= last)).sum(dim=-1).clamp(min=1)
    thresholds = best.gather(1, num_kept[:, None] - 1)[:, 0]
    min_p = column([sampling.min_p for sampling in samplings], torch.float32, device)[:, 0]
    thresholds = torch.maximum(thresholds, best[:, 0] + min_p.log())
    all_kept = num_kept == num_candidates  # top_p may reach further than the candidates
    short = [
        row
        for row, is_short in enumerate((all_kept & ~is_top_k).tolist())
        if is_short and num_candidates < vocab_size
    ]
    if short:
        thresholds[short] = lowest_scores(scores[short], [samplings[row] for row in short], vocab_size)
    return thresholds
