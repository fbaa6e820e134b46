"""The sampler draws from the exact distributions, row by row, whatever the rest of the batch does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.protocol.requests import Sampling
from inference.sampling.logits_processors import adjust
from inference.sampling.sampler import BatchSampler, lowest_scores
from inference.text.vocabulary import TokenBytes
from tests.inference import tiny

VOCAB_SIZE = 12
NUM_DRAWS = 4000


@pytest.fixture(scope="module")
def sampler() -> BatchSampler:
    return BatchSampler(VOCAB_SIZE, TokenBytes(tiny.tiny_tokenizer()), eos_token_ids=(3,))


def random_logits(num_rows: int, *, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 2


def chi_square(counts: Tensor, probabilities: Tensor) -> tuple[float, int]:
    possible = probabilities > 0
    expected = probabilities[possible] * counts.sum()
    assert counts[~possible].sum() == 0, "a token was drawn that its filter forbids"
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


def expected_distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """By transformers' own warpers, in the order in which `generate` applies them."""
    scores = logits[None].double()
    ids = torch.zeros(1, 1, dtype=torch.long)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(ids, scores)
    probabilities: Tensor = scores.softmax(dim=-1)[0]
    return probabilities


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0),
        Sampling(top_p=0.7),
        Sampling(top_k=4),
        Sampling(min_p=0.2),
        Sampling(temperature=1.5, top_k=8, top_p=0.8, min_p=0.1),
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(sampler: BatchSampler, sampling: Sampling) -> None:
    logits = random_logits(1)[0]
    sequences = [tiny.sequence(seed=seed, sampling=sampling) for seed in range(NUM_DRAWS)]
    drawn = sampler.sample(logits.expand(NUM_DRAWS, -1), tiny.next_tokens(sequences))
    counts = torch.bincount(torch.tensor([one.token_id for one in drawn]), minlength=VOCAB_SIZE)
    statistic, degrees = chi_square(counts.double(), expected_distribution(logits, sampling))
    # mean + 4 standard deviations of the chi-square distribution; the seeds are fixed
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_positions_of_one_sequence_draw_independently(sampler: BatchSampler) -> None:
    logits = random_logits(1)[0]
    sampling = Sampling()
    sequences = [tiny.sequence(output=[0] * position, seed=7, sampling=sampling) for position in range(1500)]
    drawn = sampler.sample(logits.expand(1500, -1), tiny.next_tokens(sequences))
    counts = torch.bincount(torch.tensor([one.token_id for one in drawn]), minlength=VOCAB_SIZE)
    statistic, degrees = chi_square(counts.double(), logits.double().softmax(dim=-1))
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_a_seed_gives_the_same_token_alone_and_in_any_batch(sampler: BatchSampler) -> None:
    kinds = [
        Sampling(temperature=0.0),
        Sampling(),
        Sampling(top_p=0.9, repetition_penalty=1.3),
        Sampling(top_k=3, temperature=0.7),
        Sampling(min_p=0.1, logit_bias={2: 5.0}),
    ]
    logits = random_logits(60)
    sequences = [
        tiny.sequence([1, 2], [5] * (row % 4), seed=row, sampling=kinds[row % 5]) for row in range(60)
    ]
    together = sampler.sample(logits, tiny.next_tokens(sequences))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = sampler.sample(logits[order], tiny.next_tokens([sequences[row] for row in order]))
    for place, row in enumerate(order):
        alone = sampler.sample(logits[row : row + 1], tiny.next_tokens([sequences[row]]))
        assert alone == [together[row]] == [shuffled[place]]


def test_a_negative_seed_is_as_good_as_any(sampler: BatchSampler) -> None:
    logits = random_logits(1)
    drawn = {
        sampler.sample(logits, tiny.next_tokens([tiny.sequence(seed=seed, sampling=Sampling())]))[0].token_id
        for seed in range(-40, 0)
    }
    assert len(drawn) > 3


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_greedy_takes_the_largest_logit(sampler: BatchSampler, temperature: float) -> None:
    logits = random_logits(5)
    sequences = [tiny.sequence(sampling=Sampling(temperature=temperature)) for _ in range(5)]
    assert [one.token_id for one in sampler.sample(logits, tiny.next_tokens(sequences))] == logits.argmax(
        dim=-1
    ).tolist()


def test_top_p_zero_is_the_most_likely_token(sampler: BatchSampler) -> None:
    logits = random_logits(5)
    sequences = [tiny.sequence(seed=seed, sampling=Sampling(top_p=0.0)) for seed in range(5)]
    assert [one.token_id for one in sampler.sample(logits, tiny.next_tokens(sequences))] == logits.argmax(
        dim=-1
    ).tolist()


def test_top_p_reaches_past_the_first_candidates() -> None:
    scores = random_logits(3, vocab_size=500)
    samplings = [Sampling(top_p=0.99), Sampling(top_p=0.2), Sampling(top_k=3, top_p=0.99)]
    few = lowest_scores(scores, samplings, num_candidates=8)
    torch.testing.assert_close(few, lowest_scores(scores, samplings, num_candidates=500), rtol=0, atol=0)
    assert (scores >= few[:, None]).sum(dim=-1).tolist()[0] > 8
    assert (scores >= few[:, None]).sum(dim=-1).tolist()[2] == 3


def test_a_row_that_is_not_finite_gets_no_token_and_leaves_the_others_alone(sampler: BatchSampler) -> None:
    logits = random_logits(5)
    logits[1, 4] = float("nan")
    logits[2, 0] = float("inf")
    logits[3] = float("-inf")
    logits[4, 5] = float("-inf")  # a token that cannot be is no fault
    for sampling in (Sampling(temperature=0.0), Sampling(seed=1), Sampling(min_tokens=2, top_p=0.5)):
        sequences = [tiny.sequence(sampling=sampling) for _ in range(5)]
        found = [one.token_id is not None for one in sampler.sample(logits, tiny.next_tokens(sequences))]
        assert found == [True, False, False, False, True]


def test_repetition_penalty_is_transformers_own() -> None:
    logits = random_logits(1)[0]
    token_ids, sampling = np.array([1, 2, 2, 5, 9]), Sampling(repetition_penalty=1.7)
    ours = logits.clone()
    adjust(ours, sampling, position=2, token_ids=token_ids, eos_token_ids=())
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(token_ids[None]), logits[None].clone())
    torch.testing.assert_close(ours, theirs[0])


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = random_logits(1)[0]
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    ours = logits.clone()
    adjust(ours, sampling, position=3, token_ids=np.array([1, 2, 2, 5, 9, 5]), eos_token_ids=())
    expected = logits.clone()
    expected[5] -= 0.5 + 2 * 0.25
    expected[9] -= 0.5 + 0.25
    torch.testing.assert_close(ours, expected)


def test_a_bias_of_a_hundred_decides(sampler: BatchSampler) -> None:
    logits = random_logits(2)
    best = int(logits[0].argmax())
    sequences = [
        tiny.sequence(sampling=Sampling(logit_bias={best: -100.0})),
        tiny.sequence(sampling=Sampling(temperature=0.0, logit_bias={4: 100.0})),
    ]
    drawn = sampler.sample(logits, tiny.next_tokens(sequences))
    assert drawn[0].token_id != best
    assert drawn[1].token_id == 4


@pytest.mark.parametrize(("ignore_eos", "forbidden"), [(False, {3, 6}), (True, {6})])
def test_no_ending_token_before_min_tokens(
    sampler: BatchSampler, ignore_eos: bool, forbidden: set[int]
) -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [3, 6]] = 4.0
    sampling = Sampling(min_tokens=3, stop_token_ids=(6,), ignore_eos=ignore_eos)

    def drawn(num_output: int) -> set[int | None]:
        rows = [tiny.sequence(output=[1] * num_output, seed=s, sampling=sampling) for s in range(60)]
        return {one.token_id for one in sampler.sample(logits.expand(60, -1), tiny.next_tokens(rows))}

    assert drawn(2).isdisjoint(forbidden)
    assert {3, 6} <= drawn(3)


def test_logprobs_are_those_of_the_raw_logits(sampler: BatchSampler) -> None:
    logits = random_logits(1)
    sampling = Sampling(temperature=0.3, top_k=2, presence_penalty=1.0, logprobs=4)
    [one] = sampler.sample(logits, tiny.next_tokens([tiny.sequence(output=[5], sampling=sampling)]))
    expected = logits[0].log_softmax(dim=-1)
    assert one.logprob is not None
    assert one.logprob.token_id == one.token_id
    assert one.logprob.logprob == pytest.approx(float(expected[one.token_id]), abs=1e-6)
    best = expected.topk(4)
    assert [top.token_id for top in one.logprob.top] == best.indices.tolist()
    assert [top.logprob for top in one.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_logprobs_are_not_computed_where_none_are_asked(sampler: BatchSampler) -> None:
    none, zero = sampler.sample(
        random_logits(2),
        tiny.next_tokens([tiny.sequence(sampling=Sampling()), tiny.sequence(sampling=Sampling(logprobs=0))]),
    )
    assert none.logprob is None
    assert zero.logprob is not None
    assert zero.logprob.top == ()


def test_the_models_logits_are_left_as_they_are(sampler: BatchSampler) -> None:
    logits = random_logits(2)
    before = logits.clone()
    sampler.sample(
        logits, tiny.next_tokens([tiny.sequence(sampling=Sampling(top_p=0.5, logit_bias={1: 9.0}))] * 2)
    )
    assert torch.equal(logits, before)
