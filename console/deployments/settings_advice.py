"""One sentence for each engine setting: what it comes to for this model, on this machine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inference.architectures import BATCHED, FUSED, WITH_EXPERTS
from inference.config import EngineConfig
from inference.kv_pool_size import Pool
from inference.protocol.stats import Device

CHAT_TOKENS = 4096  # a long chat, to tell a pool's size by
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 4096  # of a step, where nothing else is said
WIDE_CPU_STEP = 512  # from here on a prompt visibly holds up everybody's next token
NARROW_SHARE = 16  # tokens of the pool for each answer, below which answers push each other out


@dataclass(frozen=True, slots=True)
class Advice:
    """kind "bad": it cannot be, and the form refuses it; "warn": it can, and costs something."""

    text: str
    kind: Literal["", "warn", "bad"] = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A revision's settings on a device, with what follows from both."""

    config: EngineConfig
    facts: Mapping[str, Any]
    device: Device
    weight_bytes: int  # in memory, in the dtype that they will have
    pool: Pool | None  # None: too little is known of the model
    most_bytes: int  # that this revision may take
    budget_bytes: int  # that all revisions may take together

    @property
    def architecture(self) -> str:
        """As its files name it; "" where they do not."""
        return self.facts.get("architecture") or ""

    @property
    def is_on_gpu(self) -> bool:
        return self.device.name == "cuda" and self.config.device != "cpu"

    @property
    def dtype(self) -> str:
        return self.device.dtype if self.config.dtype == "auto" else self.config.dtype

    @property
    def num_blocks(self) -> int | None:
        """Of the KV pool, as asked for or as the engine will probably plan it."""
        if self.config.num_blocks is not None or self.pool is None:
            return self.config.num_blocks
        return self.pool.blocks_within(self.most_bytes - self.weight_bytes)

    @property
    def pool_tokens(self) -> int | None:
        return None if self.num_blocks is None else self.num_blocks * self.config.block_size

    @property
    def pool_bytes(self) -> int | None:
        if self.pool is None or self.num_blocks is None:
            return None
        return self.num_blocks * self.pool.block_bytes


def advise(plan: Plan) -> dict[str, Advice]:
    """Advice by the name of the setting; `memory` is about all of them together."""
    return {
        "device": device(plan),
        "dtype": dtype(plan),
        "attention": attention(plan),
        "quantization": quantization(plan),
        "kv_dtype": kv_dtype(plan),
        "batching": batching(plan),
        "batch_invariant": batch_invariant(plan),
        "num_blocks": num_blocks(plan),
        "max_batch_tokens": max_batch_tokens(plan),
        "max_num_seqs": max_num_seqs(plan),
        "max_model_len": max_model_len(plan),
        "prefix_caching": prefix_caching(plan),
        "sampling_defaults": sampling_defaults(plan),
        "num_draft_tokens": num_draft_tokens(plan),
        "memory": memory(plan),
    }


def device(plan: Plan) -> Advice:
    asked, has_gpu = plan.config.device, plan.device.name == "cuda"
    if asked == "cuda" and not has_gpu:
        return Advice(_("The engine sees no NVIDIA GPU here: it could not be loaded."), "bad")
    if asked == "cpu" and has_gpu:
        return Advice(_("The GPU stays unused: expect a small part of its speed."), "warn")
    return Advice(_("Runs on the GPU.") if has_gpu else _("Runs on the CPU: the engine sees no NVIDIA GPU."))


def dtype(plan: Plan) -> Advice:
    asked = plan.config.dtype
    if plan.is_on_gpu:
        if plan.dtype == "float32":
            text = _("Twice the memory of bfloat16 and a small part of its speed on a GPU.")
            return Advice(text, "warn")
        return Advice(_("%(dtype)s is what GPUs are fast in.") % {"dtype": plan.dtype})
    if asked == "auto":
        return Advice(
            _("Float32 or bfloat16, by decode steps of this model that are measured at its first load.")
        )
    if asked == "float16":
        return Advice(_("CPUs are slow in float16: take float32, or leave the choice to the engine."), "warn")
    if asked == "float32":
        return Advice(_("Rounds least. If left open, the engine measures whether bfloat16 is faster here."))
    if plan.device.keeps_bfloat16 and plan.architecture in FUSED:
        text = _("Leaves the compiled layers of this family unused, mostly the fastest: better left open.")
        return Advice(text, "warn")
    return Advice(_("Fast where the CPU has instructions for it. If left open, the engine measures that."))


def attention(plan: Plan) -> Advice:
    asked = plan.config.attention
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time runs the model's own attention."))
    if asked == "cpu" and plan.is_on_gpu:
        return Advice(_("This implementation runs on CPUs alone, and the model runs on the GPU."), "bad")
    if asked not in ("auto", "cpu", "reference") and not plan.is_on_gpu:
        return Advice(_("This implementation runs on GPUs alone, and the model runs on the CPU."), "bad")
    if asked == "flashinfer":
        text = _("Runs the FlashInfer package, if it is installed: without CUDA graphs and fused layers.")
        return Advice(text, "warn")
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
    if plan.architecture in WITH_EXPERTS:
        if asked:
            return Advice(_("A mixture of experts is not quantized: choose no here."), "bad")
        return Advice(_("As the files are: a mixture of experts is not quantized."))
    if asked:
        text = _(
            "Quantized anew at each load. It answers a little differently: a rollout promotes it with a "
            "certificate only."
        )
        return Advice(text, "warn")
    return Advice(_("As the files are. The action Quantize makes int8 once, and keeps it."))


def kv_dtype(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time needs no pool."))
    if plan.config.kv_dtype == "auto":
        return Advice(_("The pool holds keys and values in the data type of the model."))
    if not plan.is_on_gpu and plan.config.attention != "reference":
        text = _("On a CPU only the attention “reference” reads such a pool: choose both, or auto here.")
        return Advice(text, "bad")
    text = _(
        "The pool holds twice the tokens of bfloat16. It answers a little differently: a rollout promotes it "
        "with a certificate only."
    )
    return Advice(text, "warn")


def batch_invariant(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time."))
    if not plan.config.batch_invariant:
        text = _("A request's last digits may depend on what is computed beside it, as in every batch.")
        return Advice(text)
    if plan.is_on_gpu:
        return Advice(_("Every request is computed as if it were alone. It costs some speed."), "warn")
    return Advice(_("On a CPU the requests of a step are computed one by one: slow."), "warn")


def batching(plan: Plan) -> Advice:
    if plan.config.batching and plan.architecture and plan.architecture not in BATCHED:
        text = _("One request at a time, the others wait: %(architecture)s does not run in batches.")
        return Advice(text % {"architecture": plan.architecture}, "warn")
    if plan.config.batching:
        return Advice(_("Requests share every step: the others do not wait for a long answer."))
    text = _("One request at a time, the others wait. For debugging, and for comparing answers.")
    return Advice(text, "warn")


def num_blocks(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time needs no pool."))
    if plan.pool is None or plan.pool_tokens is None:
        return Advice(_("The files do not say what a token takes: the pool is planned at load."))
    tokens, is_asked = plan.pool_tokens, plan.config.num_blocks is not None
    values = {
        "tokens": f"{tokens:,}",
        "size": filesizeformat(plan.pool_bytes or 0),
        "context": f"{plan.pool.max_model_len:,}",
        "least": plan.pool.least_blocks,
        "chats": tokens // CHAT_TOKENS,
        "long": f"{CHAT_TOKENS:,}",
    }
    if plan.num_blocks is not None and plan.num_blocks < plan.pool.least_blocks:
        if is_asked:
            text = _("%(tokens)s tokens hold no useful conversation: take at least %(least)d blocks.")
        else:
            text = _("Beside the weights no room is left for a pool: raise the memory budget, or quantize.")
        return Advice(text % values, "bad")
    if tokens < plan.pool.max_model_len:
        text = _("%(tokens)s tokens in %(size)s: the context of %(context)s is cut to that.")
        return Advice(text % values, "warn")
    text = ngettext(
        "%(tokens)s tokens in %(size)s: %(chats)d chat of %(long)s tokens at once.",
        "%(tokens)s tokens in %(size)s: %(chats)d chats of %(long)s tokens at once.",
        tokens // CHAT_TOKENS,
    )
    text %= values
    return Advice(text if is_asked else _("Planned at load, about: %(pool)s") % {"pool": text})


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
    number = plan.config.max_num_seqs
    if plan.pool_tokens is None:
        return Advice(_("Up to %(number)s answers grow at once.") % {"number": f"{number:,}"})
    share = plan.pool_tokens // number
    text = _("Up to %(number)s answers grow at once. With so many, the pool holds %(tokens)s tokens of each.")
    values = {"number": f"{number:,}", "tokens": f"{share:,}"}
    return Advice(text % values, "warn" if share < NARROW_SHARE else "")


def max_model_len(plan: Plan) -> Advice:
    own, asked = plan.facts.get("max_model_len"), plan.config.max_model_len
    if own is None:
        return Advice(_("The files do not say how long the context is."))
    values = {"own": f"{own:,}"}
    if "context_from" in plan.facts and asked is None:
        text = _("The files do not say how long the context is: %(own)s tokens are assumed.")
        return Advice(text % values, "warn")
    if asked is not None and asked > own and "context_from" not in plan.facts:
        return Advice(_("The model's own context holds %(own)s tokens, not more.") % values, "bad")
    if plan.pool is None:
        return Advice(_("The model's own context holds %(own)s tokens.") % values)
    values["size"] = filesizeformat(plan.pool.token_bytes * (asked or own))
    text = _("The model's own context holds %(own)s tokens; a full one takes %(size)s of the pool.")
    return Advice(text % values)


def sampling_defaults(plan: Plan) -> Advice:
    if plan.config.sampling_defaults == "openai":
        return Advice(_("Where a request is silent: temperature 1, and no token is ruled out, as at OpenAI."))
    own = plan.facts.get("sampling")
    if own is None:  # imported before this was read
        return Advice(_("Where a request is silent, what generation_config.json says holds."))
    if not own:
        return Advice(
            _("The files name no sampling settings of their own: where a request is silent, OpenAI's hold.")
        )
    text = _("Where a request is silent, what generation_config.json says holds: %(values)s.")
    return Advice(text % {"values": ", ".join(f"{name} {value}" for name, value in own.items())})


def prefix_caching(plan: Plan) -> Advice:
    if not plan.config.batching:
        return Advice(_("Not used: one request at a time."))
    if plan.config.prefix_caching:
        return Advice(_("A beginning that prompts of a team share, like a system prompt, is computed once."))
    return Advice(_("Every prompt is computed from its first token, however often it came before."), "warn")


def num_draft_tokens(plan: Plan) -> Advice:
    config, number = plan.config, plan.config.num_draft_tokens
    runs_alone = config.batch_invariant and (config.attention == "reference" or not plan.is_on_gpu)
    if not number:
        return Advice(_("No speculation: each step computes one token of an answer."))
    if not config.batching or runs_alone:
        text = _("Drafts are verified in a batch with the answer, and batching is off: take 0 here.")
        return Advice(text, "bad")
    text = _(
        "Where an answer repeats the prompt or itself, up to %(number)d draft tokens are proposed and "
        "verified in one step: the same answer, sooner. With failing drafts or many answers there are none."
    )
    return Advice(text % {"number": number})


def memory(plan: Plan) -> Advice:
    weights, pool = plan.weight_bytes, plan.pool_bytes if plan.config.batching else 0
    values = {
        "weights": filesizeformat(weights),
        "pool": filesizeformat(pool or 0),
        "total": filesizeformat(weights + (pool or 0)),
        "budget": filesizeformat(plan.budget_bytes),
    }
    if weights + (pool or 0) > plan.budget_bytes:
        text = _(
            "It cannot fit: weights of %(weights)s and a KV pool of %(pool)s make %(total)s, and all "
            "revisions together may take %(budget)s."
        )
        return Advice(text % values, "bad")
    if pool is None:
        text = _("Weights of %(weights)s and a KV pool, of %(budget)s for all revisions together.")
        return Advice(text % values)
    text = _(
        "About %(total)s of the %(budget)s for all revisions together: weights %(weights)s, KV pool %(pool)s."
    )
    return Advice(text % values)
