"""Pre-tokenizers of byte-level vocabularies, by the name that a GGUF file gives the rule.

The same vocabulary with another rule reads numbers, tables and indented code as the model never saw them. A
rule that is not named here is refused: llama.cpp refuses what it does not know as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True, slots=True)
class SplitRule:
    """A pre-tokenizer: regular expressions applied in order, then GPT-2's rule or none."""

    cuts: tuple[str, ...] = ()
    then_gpt2: bool = False
    whole_words: bool = False  # a word of the vocabulary is taken as it is, without merging
    adds_bos: bool = False  # where the file does not say
    composed: bool = False  # characters are brought into Unicode's form C first

    def pre_tokenizer(self) -> PreTokenizer:
        cuts: list[PreTokenizer] = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in self.cuts]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.then_gpt2)
        return pre_tokenizers.Sequence([*cuts, byte_level]) if cuts else byte_level

    def normalizer(self) -> Normalizer | None:
        return normalizers.NFC() if self.composed else None


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CAPITALIZED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+"
CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SIGNS_OR_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
UP_TO_3_DIGITS = r"\p{N}{1,3}"
HAN_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
SENTENCE = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"  # between marks of several scripts


def _joined(*parts: str) -> str:
    return "|".join(parts)


LLAMA3 = _joined(CONTRACTIONS, WORD, UP_TO_3_DIGITS, SIGNS, SPACES)
QWEN2 = _joined(CONTRACTIONS, WORD, DIGIT, SIGNS, SPACES)
QWEN35 = _joined(CONTRACTIONS, MARKED_WORD, DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", SPACES)
GPT4O = _joined(
    CAPITALIZED + CONTRACTIONS + "?", CAPITALS + CONTRACTIONS + "?", UP_TO_3_DIGITS, SIGNS_OR_SLASH, SPACES
)
TEKKEN = _joined(CAPITALIZED, CAPITALS, DIGIT, SIGNS_OR_SLASH, SPACES)
DEEPSEEK_V3 = _joined(
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    SPACES,
)
SEED_CODER = _joined(CONTRACTIONS, WORD, DIGIT, r" ?[^\s\p{L}\p{N}\r\n]+", SPACES)
BAILING = _joined(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    DIGIT,
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"\s*[\r\n]|\s+(?!\S)|\s+",
)
MINICPM5 = _joined(CONTRACTIONS, WORD, r"\p{N}+", SIGNS, SPACES)

GPT2_RULE = SplitRule(then_gpt2=True)
DIGITS_FIRST = SplitRule((DIGIT,), then_gpt2=True)
LLAMA3_RULE = SplitRule((LLAMA3,), whole_words=True, adds_bos=True)
QWEN2_RULE = SplitRule((QWEN2,))
DEEPSEEK_V3_RULE = SplitRule((UP_TO_3_DIGITS, HAN_AND_KANA, DEEPSEEK_V3))


def _all(names: Iterable[str], rule: SplitRule) -> dict[str, SplitRule]:
    return dict.fromkeys(names, rule)


RULES: dict[str, SplitRule] = {
    "default": SplitRule((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": SplitRule((r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]")),
    **_all(("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "jais", "trillion"), GPT2_RULE),
    "granite-docling": GPT2_RULE,
    **_all(("mpt", "olmo"), SplitRule(then_gpt2=True, composed=True)),
    **_all(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), DIGITS_FIRST),
    "command-r": SplitRule((DIGIT,), then_gpt2=True, composed=True),
    **_all(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0"), LLAMA3_RULE),
    "lfm2": LLAMA3_RULE,
    **_all(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), SplitRule((LLAMA3,))),
    **_all(("qwen2", "megrez"), SplitRule((QWEN2,), composed=True)),
    **_all(("deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "solar-open", "grok-2"), QWEN2_RULE),
    "qwen35": SplitRule((QWEN35,), composed=True),
    **_all(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), SplitRule((GPT4O,))),
    "tekken": SplitRule((TEKKEN,), whole_words=True, adds_bos=True),
    "deepseek-coder": SplitRule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, DIGIT)),
    **_all(("deepseek-v3", "hunyuan-dense", "joyai-llm"), DEEPSEEK_V3_RULE),
    "seed-coder": SplitRule((SEED_CODER,)),
    **_all(("bailingmoe", "bailingmoe2", "llada-moe"), SplitRule((BAILING,))),
    "minicpm5": SplitRule((UP_TO_3_DIGITS, MINICPM5), whole_words=True),
    **_all(("poro-chat", "bloom", "gpt3-finnish"), SplitRule((SENTENCE,))),
    "viking": SplitRule((SENTENCE, DIGIT)),
}
