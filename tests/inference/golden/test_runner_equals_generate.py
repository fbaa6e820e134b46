"""Plans made by hand, through our attention, give the very tokens of transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inference.execution.runner import ModelRunner
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from tests.inference import tiny

BLOCK_SIZE = 4
NUM_TOKENS = 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scattered_tables(sequences: list[Sequence], num_blocks: int) -> None:
    """Give each sequence blocks from all over the pool, so that neighbours in a text are none in memory."""
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3)).tolist()
    for sequence in sequences:
        num_blocks = -(-(sequence.num_prompt_tokens + NUM_TOKENS) // BLOCK_SIZE)
        sequence.block_table = tuple([order.pop() for _ in range(num_blocks)])


def step(runner: ModelRunner, rows: list[ScheduledChunk]) -> None:
    """Run rows and append the greedy tokens, as the engine would."""
    plan = StepPlan(tuple(rows))
    chosen = runner.run(plan.input).argmax(dim=-1).tolist()
    sampling = [row.sequence for row in rows if row.samples]
    for row in rows:
        row.sequence.num_computed_tokens = row.end
    for sequence, token_id in zip(sampling, chosen, strict=True):
        sequence.token_ids.append(token_id)


@pytest.mark.parametrize("attention", ["reference", "cpu"])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_mixed_lengths_staggered_arrivals_and_chunks_give_generates_tokens(name: str, attention: str) -> None:
    model = tiny.tiny_model(name)
    prompts = [tiny.prompt(length) for length in (1, 3, 40, 17, 33)]
    expected = [tiny.generated(model, prompt, NUM_TOKENS) for prompt in prompts]
    runner = ModelRunner(tiny.loaded(model, attention=attention), num_blocks=80, block_size=BLOCK_SIZE)
    sequences = [tiny.sequence(prompt) for prompt in prompts]
    scattered_tables(sequences, runner.num_blocks)
    turn = 0
    while any(sequence.num_output_tokens < NUM_TOKENS for sequence in sequences):
        rows = [
            # chunks of 1 to 7 tokens: some end inside a block, some sample, decode rows lie between them
            ScheduledChunk(
                sequence, sequence.num_computed_tokens, min(sequence.num_uncomputed_tokens, 1 + turn % 7)
            )
            for index, sequence in enumerate(sequences)
            if index <= turn and sequence.num_output_tokens < NUM_TOKENS
        ]
        step(runner, rows)
        turn += 1
    assert [sequence.output_token_ids for sequence in sequences] == expected


@pytest.mark.parametrize("attention", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_shared_prefix_is_read_from_another_sequences_blocks(name: str, attention: str) -> None:
    model = tiny.tiny_model(name)
    prefix = tiny.prompt(8 * BLOCK_SIZE)
    prompts = [prefix + tiny.prompt(5), prefix + tiny.prompt(1, seed=9)]
    expected = [tiny.generated(model, prompt, NUM_TOKENS) for prompt in prompts]
    runner = ModelRunner(tiny.loaded(model, attention=attention), num_blocks=60, block_size=BLOCK_SIZE)
    first, second = (tiny.sequence(prompt) for prompt in prompts)
    scattered_tables([first, second], runner.num_blocks)
    second.block_table = first.block_table[:8] + second.block_table[8:]
    second.num_computed_tokens = 8 * BLOCK_SIZE
    step(runner, [ScheduledChunk(first, 0, first.num_uncomputed_tokens)])
    for _ in range(NUM_TOKENS):
        rows = [
            ScheduledChunk(sequence, sequence.num_computed_tokens, sequence.num_uncomputed_tokens)
            for sequence in (second, first)
            if sequence.num_output_tokens < NUM_TOKENS
        ]
        step(runner, rows)
    assert [first.output_token_ids, second.output_token_ids] == expected


def test_logits_come_in_the_plans_order_and_only_for_rows_that_sample() -> None:
    runner = ModelRunner(tiny.loaded(tiny.tiny_model("llama")), num_blocks=60, block_size=BLOCK_SIZE)
    sequences = [tiny.sequence(tiny.prompt(length)) for length in (9, 6, 12)]
    scattered_tables(sequences, runner.num_blocks)
    alone = [runner.run(StepPlan((ScheduledChunk(s, 0, len(s.token_ids)),)).input)[0] for s in sequences]
    lengths = ((sequences[2], 12), (sequences[0], 8), (sequences[1], 6))
    plan = StepPlan(tuple(ScheduledChunk(sequence, 0, length) for sequence, length in lengths))
    together = runner.run(plan.input)
    assert together.shape == (2, tiny.VOCAB_SIZE)
    torch.testing.assert_close(together, torch.stack([alone[2], alone[1]]), atol=1e-4, rtol=1e-4)
