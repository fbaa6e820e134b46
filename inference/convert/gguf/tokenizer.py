"""A tokenizer from the header of a GGUF file: the vocabulary once, with the file's own rule of splitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.pretokenizers import RULES, SplitRule
from inference.convert.gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

METASPACE = "\u2581"
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
MISSING_RULES = {
    "gpt2": "gpt-2",
    "qwen2": "qwen2",
    "falcon": "falcon",
    "mpt": "mpt",
    "starcoder2": "starcoder",
}


def build_tokenizer(header: GgufHeader) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF header. Raises `CannotConvert`."""
    vocabulary = Vocabulary(header)
    kind = header.text("tokenizer.ggml.model")
    if kind == "gpt2":
        rule = _rule(header)
        backend, adds_bos = _byte_level(vocabulary, rule), rule.adds_bos
    elif kind == "llama":
        backend, adds_bos = _sentencepiece(vocabulary), True
    elif kind == "gemma4":
        backend, adds_bos = _gemma(vocabulary, vocabulary.merges()), False
    else:
        raise CannotConvert(
            f"the vocabulary is of the kind {kind or 'that the file does not name'!r}; gpt2, llama and gemma4"
            " are converted: take the model's folder of safetensors"
        )
    names = {name: vocabulary.token_id(key) for name, key in NAMED.items()}
    _add_tokens(backend, vocabulary)
    if kind == "gemma4":  # the flag is set there, but its template writes the token itself
        adds_bos = adds_eos = False
    else:
        adds_bos = vocabulary.flag("add_bos_token", otherwise=adds_bos)
        adds_eos = vocabulary.flag("add_eos_token", otherwise=False)
    around = [names["bos_token"] if adds_bos else None, names["eos_token"] if adds_eos else None]
    backend.post_processor = _surrounding(vocabulary, *around)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=header.text("tokenizer.chat_template") or None,
        clean_up_tokenization_spaces=False,
        **{name: vocabulary.tokens[token_id] for name, token_id in names.items() if token_id is not None},
    )


def _rule(header: GgufHeader) -> SplitRule:
    named = header.text("tokenizer.ggml.pre") or MISSING_RULES.get(header.architecture, "")
    if not named:
        raise CannotConvert(
            "the file does not say how its vocabulary splits text (tokenizer.ggml.pre): it was made by an old"
            " converter; take a newer file, or the model's folder of safetensors"
        )
    if named not in RULES:
        raise CannotConvert(
            f"the file's vocabulary splits text by the rule {named!r} (tokenizer.ggml.pre), which is not"
            " known here: take the model's folder of safetensors, whose tokenizer.json states the rule"
        )
    return RULES[named]


def _byte_level(vocabulary: Vocabulary, rule: SplitRule) -> Tokenizer:
    backend = Tokenizer(_bpe(vocabulary.ids, vocabulary.merges(), ignore_merges=rule.whole_words))
    if (normalizer := rule.normalizer()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = rule.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    architecture = vocabulary.header.architecture
    if architecture.startswith("gemma"):
        # Gemma's scores do not tell in which order tokens are merged; their place in the list does.
        order: Sequence[float] = [-float(place) for place in range(len(vocabulary.tokens))]
        return _gemma(vocabulary, _implied_merges(_respelled(vocabulary), order))
    merges = vocabulary.merges() or _implied_merges(vocabulary.ids, vocabulary.scores())
    backend = Tokenizer(_byte_fallback(vocabulary, vocabulary.ids, merges))
    has_prefix = vocabulary.flag("add_space_prefix", otherwise=True)
    parts = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if has_prefix and architecture == "phi3":  # which puts a space before each piece between special tokens
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)]
        )
    else:
        scheme = "first" if has_prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if has_prefix else parts)
    return backend


def _gemma(vocabulary: Vocabulary, merges: list[tuple[str, str]]) -> Tokenizer:
    backend = Tokenizer(_byte_fallback(vocabulary, _respelled(vocabulary), merges))
    backend.normalizer = normalizers.Replace(" ", METASPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _byte_fallback(
    vocabulary: Vocabulary, ids: Mapping[str, int], merges: list[tuple[str, str]]
) -> models.BPE:
    unknown = vocabulary.token_id("unknown")
    unk_token = None if unknown is None else vocabulary.tokens[unknown]
    return _bpe(ids, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True)


def _bpe(ids: Mapping[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(dict(ids), merges, **options)
    except Exception as error:  # the library raises nothing narrower
        raise CannotConvert(f"the file's merges do not fit its vocabulary: {error}") from error


def _respelled(vocabulary: Vocabulary) -> dict[str, int]:
    """Converters write tokens of several spaces as such; merges know them by SentencePiece's visible one."""
    return {
        METASPACE * len(token) if token and not token.strip(" ") else token: token_id
        for token, token_id in vocabulary.ids.items()
    }


def _implied_merges(ids: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others; the best token first, as SentencePiece merges."""
    found = [
        (-scores[token_id], cut, len(token) - cut, token[:cut], token[cut:])
        for token, token_id in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    found.sort(key=lambda one: (one[0], -one[1], -one[2]))
    return [(left, right) for *_, left, right in found]


def _add_tokens(backend: Tokenizer, vocabulary: Vocabulary) -> None:
    """Adds the tokens that are matched before pre-tokenization."""
    special, plain = [], []
    for token_id in vocabulary.of_type(UNKNOWN, CONTROL, USER_DEFINED):
        token = vocabulary.tokens[token_id]
        if vocabulary.types[token_id] != USER_DEFINED:
            special.append(AddedToken(token, normalized=False, special=True))
        elif backend.token_to_id(token) == token_id:  # else it was respelled, and is merged
            plain.append(AddedToken(token, normalized=False, special=False))
    backend.add_special_tokens(special)
    backend.add_tokens(plain)


def _surrounding(vocabulary: Vocabulary, begin: int | None, end: int | None) -> processors.TemplateProcessing:
    first = [] if begin is None else [vocabulary.tokens[begin]]
    last = [] if end is None else [vocabulary.tokens[end]]
    tokens = {vocabulary.tokens[one]: one for one in (begin, end) if one is not None}
    pair = [*first, "$A", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{t}:1" for t in last)]
    return processors.TemplateProcessing(
        single=[*first, "$A", *last], pair=pair, special_tokens=list(tokens.items())
    )
