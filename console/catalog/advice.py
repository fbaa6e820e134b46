"""One sentence for each engine setting: what it comes to for this model, on this machine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from console.catalog.machine import Machine
from inference.config import EngineConfig

CHAT_TOKENS = 4096  # a long chat, to tell a pool's size by
CPU_MAX_TOKENS = 32_768  # what the engine plans for a CPU's pool where nothing else is said
LEAST_POOL_TOKENS = 256
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 4096  # of a step, where nothing else is said
WIDE_CPU_STEP = 512  # from here on a prompt visibly holds up everybody's next token
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Advice:
    """kind "bad": it cannot be, and the form refuses it; "warn": it can, and costs something."""

    text: str
    kind: Literal["", "warn", "bad"] = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A revision's settings on a machine, with what follows from both."""

    config: EngineConfig
    facts: Mapping[str, Any]
    machine: Machine
    budget_bytes: int  # what revisions may take together

    @property
    def is_on_gpu(self) -> bool:
        return self.machine.has_gpu and self.config.device != "cpu"

    @property
    def dtype(self) -> str:
        """What "auto" will probably come to."""
        if self.config.dtype != "auto":
            return self.config.dtype
        return "bfloat16" if self.is_on_gpu or self.machine.has_fast_bfloat16 else "float32"

    @property
    def is_quantized(self) -> bool:
        return bool(self.facts.get("quantization"))

    @property
    def own_context(self) -> int | None:
        return self.facts.get("max_model_len")

    @property
    def context(self) -> int | None:
        return self.config.max_model_len or self.own_context

    @property
    def token_bytes(self) -> int | None:
        """Keys and values of one token in the pool."""
        known = self.facts.get("kv_bytes_per_token")
        return None if known is None else known * ELEMENT_BYTES[self.dtype] // 2

    @property
    def weight_bytes(self) -> int | None:
        """In memory. Linear layers in int8 take a byte each; embeddings and norms stay as they are."""
        if self.is_quantized or (self.config.quantization and "num_parameters" not in self.facts):
            return self.facts.get("weight_bytes")
        num_parameters = self.facts.get("num_parameters")
        if num_parameters is None:
            return self.facts.get("weight_bytes")
        return int(num_parameters * (1.1 if self.config.quantization else ELEMENT_BYTES[self.dtype]))

    @property
    def pool_tokens(self) -> int | None:
        """Tokens that the KV pool holds, where that can be told before it is loaded."""
        if self.config.num_blocks is not None:
            return self.config.num_blocks * self.config.block_size
        if self.is_on_gpu or self.context is None:
            return None
        return min(self.config.max_num_seqs * self.context, max(2 * self.context, CPU_MAX_TOKENS))

    @property
    def pool_bytes(self) -> int | None:
        return None if None in (self.pool_tokens, self.token_bytes) else self.pool_tokens * self.token_bytes  # type: ignore[operator]


def advise(plan: Plan) -> dict[str, Advice]:
    """Advice by the name of the setting; `memory` is about all of them together."""
    return {
        "device": device(plan),
        "dtype": dtype(plan),
        "attention": attention(plan),
        "quantization": quantization(plan),
        "batching": batching(plan),
        "num_blocks": num_blocks(plan),
        "max_batch_tokens": max_batch_tokens(plan),
        "max_num_seqs": max_num_seqs(plan),
        "max_model_len": max_model_len(plan),
        "prefix_caching": prefix_caching(plan),
        "memory": memory(plan),
    }


def device(plan: Plan) -> Advice:
    asked, has_gpu = plan.config.device, plan.machine.has_gpu
    if asked == "cuda" and not has_gpu:
        return Advice(_("This machine has no NVIDIA GPU: it could not be loaded."), "bad")
    if asked == "cpu" and has_gpu:
        return Advice(_("The GPU stays unused: expect a small part of its speed."), "warn")
    return Advice(_("Runs on the GPU.") if has_gpu else _("Runs on the CPU: this machine has no NVIDIA GPU."))


def dtype(plan: Plan) -> Advice:
    asked = plan.config.dtype
    if plan.is_on_gpu:
        if plan.dtype == "float32":
            text = _("Twice the memory of bfloat16 and a small part of its speed on a GPU.")
            return Advice(text, "warn")
        return Advice(_("%(dtype)s is what GPUs are fast in.") % {"dtype": plan.dtype})
    if asked == "float16":
        return Advice(_("CPUs are slow in float16: take float32, or leave the choice to the engine."), "warn")
    if asked == "bfloat16" and not plan.machine.has_fast_bfloat16:
        text = _(
            "This CPU lacks AVX512-BF16 and AMX: bfloat16 was measured 2 to 5 times slower than float32."
        )
        return Advice(text, "warn")
    if asked == "float32" and plan.machine.has_fast_bfloat16:
        text = _("This CPU multiplies bfloat16 up to 3 times faster, in half the memory.")
        return Advice(text, "warn")
    if asked == "auto":
        text = _(
            "The faster of float32 and bfloat16, tried out on this CPU at each load; probably %(dtype)s."
        )
        return Advice(text % {"dtype": plan.dtype})
    return Advice(_("%(dtype)s is what this CPU is fast in.") % {"dtype": asked})


def attention(plan: Plan) -> Advice:
    asked = plan.config.attention
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time runs the model's own attention."))
    if asked == "cpu" and plan.is_on_gpu:
        return Advice(_("This implementation runs on CPUs alone, and the model runs on the GPU."), "bad")
    if asked not in ("auto", "cpu", "reference") and not plan.is_on_gpu:
        return Advice(_("This implementation runs on GPUs alone, and the model runs on the CPU."), "bad")
    if asked == "reference":
        text = _("The plain implementation that the others are compared with: right everywhere, and slow.")
        return Advice(text, "warn")
    return Advice(_("The fastest that this device has."))


def quantization(plan: Plan) -> Advice:
    have, asked = plan.facts.get("quantization"), plan.config.quantization
    if have:
        if asked:
            text = _("The files are quantized already (%(method)s): choose no here.")
            return Advice(text % {"method": have}, "bad")
        return Advice(_("The files are quantized already: %(method)s.") % {"method": have})
    if asked:
        text = _(
            "Quantized anew at each load. It answers a little differently: a rollout promotes it with a "
            "certificate only."
        )
        return Advice(text, "warn")
    return Advice(_("As the files are. The action Quantize makes int8 once, and keeps it."))


def batching(plan: Plan) -> Advice:
    if plan.config.batching:
        return Advice(_("Requests share every step: the others do not wait for a long answer."))
    text = _("One request at a time, the others wait. For debugging, and for comparing answers.")
    return Advice(text, "warn")


def num_blocks(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time needs no pool."))
    tokens = plan.pool_tokens
    if tokens is None:
        return Advice(_("Planned at load: what the GPU has left beside the weights and the largest step."))
    if tokens < LEAST_POOL_TOKENS:
        text = _("%(tokens)s tokens hold no useful conversation: take at least %(least)d blocks.")
        least = -(-LEAST_POOL_TOKENS // plan.config.block_size)
        return Advice(text % {"tokens": f"{tokens:,}", "least": least}, "bad")
    if plan.context is not None and tokens < plan.context:
        text = _("%(tokens)s tokens%(size)s: the context of %(context)s is cut to that.")
        values = {"tokens": f"{tokens:,}", "size": _size(plan.pool_bytes), "context": f"{plan.context:,}"}
        return Advice(text % values, "warn")
    text = ngettext(
        "%(tokens)s tokens%(size)s: %(chats)d chat of %(long)s tokens at once.",
        "%(tokens)s tokens%(size)s: %(chats)d chats of %(long)s tokens at once.",
        tokens // CHAT_TOKENS,
    ) % {
        "tokens": f"{tokens:,}",
        "size": _size(plan.pool_bytes),
        "chats": tokens // CHAT_TOKENS,
        "long": f"{CHAT_TOKENS:,}",
    }
    if plan.config.num_blocks is None:
        text = _("Planned at load, at most %(pool)s") % {"pool": text}
    return Advice(text)


def max_batch_tokens(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time."))
    asked = plan.config.max_batch_tokens
    if asked is None:
        if plan.is_on_gpu:
            return Advice(_("%(tokens)s tokens in a step on a GPU.") % {"tokens": f"{GPU_BATCH_TOKENS:,}"})
        text = _("%(tokens)d tokens in a step on a CPU: measured, of 64 to 512, as the best.")
        return Advice(text % {"tokens": CPU_BATCH_TOKENS})
    if not plan.is_on_gpu and asked >= WIDE_CPU_STEP:
        text = _(
            "A long prompt fills the step, and everybody's next token waits for it. "
            "%(tokens)d was measured as the best."
        )
        return Advice(text % {"tokens": CPU_BATCH_TOKENS}, "warn")
    if asked < plan.config.max_num_seqs:
        text = _("At most %(tokens)d answers get their next token in one step, whatever the next field says.")
        return Advice(text % {"tokens": asked}, "warn")
    return Advice(_("Prompts are computed in pieces of at most this, between everybody's next tokens."))


def max_num_seqs(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time."))
    number, tokens = plan.config.max_num_seqs, plan.pool_tokens
    if tokens is None:
        return Advice(_("Up to %(number)s answers grow at once.") % {"number": f"{number:,}"})
    text = _(
        "Up to %(number)s answers grow at once; with all of them, the pool holds %(tokens)s tokens for each."
    )
    share = tokens // number
    return Advice(text % {"number": f"{number:,}", "tokens": f"{share:,}"}, "warn" if share < 16 else "")


def max_model_len(plan: Plan) -> Advice:
    own, asked = plan.own_context, plan.config.max_model_len
    if own is None:
        return Advice(_("The files do not say how long the context is."))
    if asked is not None and asked > own:
        return Advice(_("The model's own context holds %(own)s tokens.") % {"own": f"{own:,}"}, "bad")
    taken = plan.token_bytes and plan.token_bytes * (asked or own)
    values = {"own": f"{own:,}", "size": filesizeformat(taken or 0)}
    if not taken:
        return Advice(_("The model's own context holds %(own)s tokens.") % values)
    if asked is None:
        return Advice(
            _("The model's own: %(own)s tokens. A conversation that fills it takes %(size)s.") % values
        )
    return Advice(
        _("Of the model's own %(own)s tokens. A conversation that fills it takes %(size)s.") % values
    )


def prefix_caching(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time."))
    if plan.config.prefix_caching:
        return Advice(_("A beginning that prompts of a team share, like a system prompt, is computed once."))
    return Advice(_("Every prompt is computed from its first token, however often it came before."), "warn")


def memory(plan: Plan) -> Advice:
    weights, pool = plan.weight_bytes, plan.pool_bytes if plan.config.batching else 0
    if weights is None:
        return Advice(
            _("The files do not say how large the model is: what it takes is measured when it is loaded.")
        )
    values = {
        "weights": filesizeformat(weights),
        "pool": filesizeformat(pool or 0),
        "total": filesizeformat(weights + (pool or 0)),
        "budget": filesizeformat(plan.budget_bytes),
    }
    if pool is None:
        text = _("Weights of about %(weights)s, and a KV pool of what is left of %(budget)s.")
        return Advice(text % values, "bad" if weights > plan.budget_bytes else "")
    if weights + pool > plan.budget_bytes and (weights > plan.budget_bytes or plan.config.num_blocks):
        text = _(
            "It cannot fit: weights of about %(weights)s and a KV pool of %(pool)s make %(total)s, and all "
            "revisions together may take %(budget)s."
        )
        return Advice(text % values, "bad")
    text = _("About %(total)s of the %(budget)s for all revisions: weights %(weights)s, KV pool %(pool)s.")
    return Advice(text % values)


def _size(num_bytes: int | None) -> str:
    return "" if num_bytes is None else _(" in %(size)s") % {"size": filesizeformat(num_bytes)}
