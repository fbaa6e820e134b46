"""The kind of model in a folder, judged by its config.json: only text generation is served.

transformers' own tables say which class belongs to a model type; they are asked where a name is not enough.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from inference.architectures import BATCHED

EMBEDDINGS = "it turns texts into vectors (embeddings), which are not served yet"
CLASSIFIER = (
    "it gives texts a class or a score (a classifier or reranker), which is not served yet; a language model"
    " can be asked to judge instead"
)
ENCODER = (
    "it fills gaps in a text or turns it into vectors (an encoder), which is not served yet; take a model"
    " that continues texts, as those named ...ForCausalLM do"
)
TRANSLATOR = (
    "it reads one text and writes another (encoder and decoder, as T5, BART and Marian are), which is not"
    " served; take a model that continues texts, as those named ...ForCausalLM do"
)
SPEECH = "it hears or speaks, which is not served; only text goes in and comes out here"
PICTURES = "it works on pictures or other data and does not continue texts, so it is not served"

BY_NAME: tuple[tuple[str, str], ...] = (  # the end of an architecture's name -> what it does
    (r"(ForSequenceClassification|ForTokenClassification|ForMultipleChoice|RewardModel)", CLASSIFIER),
    (r"(ForQuestionAnswering|ForNextSentencePrediction|ForReward)", CLASSIFIER),
    (r"(ForMaskedLM|ForPreTraining|ForMaskedLMWithHead)", ENCODER),
    (r"(ForRetrieval|ForSentenceEmbedding|ForTextEncoding)", EMBEDDINGS),
    (r"(ForCTC|ForSpeechSeq2Seq|ForAudioClassification|ForTextToWaveform|ForTextToSpeech)", SPEECH),
    (r"EncoderModel", EMBEDDINGS),
)
BY_TABLE: tuple[tuple[str, str], ...] = (  # transformers' table that names a model type -> what it does
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_CTC_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_RNNT_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_TDT_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES", SPEECH),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", TRANSLATOR),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", ENCODER),
)
VECTORS = frozenset({"modules.json", "config_sentence_transformers.json", "1_Pooling"})
PIPELINE = "model_index.json"


def why_not_served(config: Mapping[str, Any], names: Collection[str] = ()) -> str:
    """The model's task if it is not text generation; "" if it is.

    `names`: what else lies beside config.json, of which some belongs to one kind alone.
    """
    if VECTORS & set(names):
        return EMBEDDINGS
    if PIPELINE in names:
        return PICTURES
    architecture = str(next(iter(config.get("architectures") or ()), ""))
    if architecture in BATCHED:
        return ""
    return _by_tables(architecture, str(config.get("model_type")), config)


def has_class(model_type: str) -> bool:
    """True if transformers has a class for this model type, so that no remote code is needed."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def has_tokenizer_class(model_type: str, tokenizer_class: object) -> bool:
    """True if transformers has the tokenizer class that tokenizer_config.json names, or one for the model."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    if TOKENIZER_MAPPING_NAMES.get(model_type) is not None:
        return True
    return isinstance(tokenizer_class, str) and tokenizer_class_from_name(tokenizer_class) is not None


def is_image_text_to_text(model_type: str) -> bool:
    """True for image-text-to-text models, which transformers loads by another class."""
    from transformers.models.auto import modeling_auto as tables

    is_plain = model_type in tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return not is_plain and model_type in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _by_tables(architecture: str, model_type: str, config: Mapping[str, Any]) -> str:
    from transformers.models.auto import modeling_auto as tables

    if not has_class(model_type):
        return ""  # whoever reads the config says so
    writers = (
        tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    writes = any(model_type in table for table in writers)
    is_named = any(architecture in table.values() for table in writers)
    if writes and is_named:
        is_decoder = architecture.endswith("ForCausalLM")
        return TRANSLATOR if not is_decoder and _is_encoder_decoder(model_type, config) else ""
    for ending, kind in BY_NAME:
        if re.search(rf"{ending}\Z", architecture):
            return kind
    if not writes and model_type in tables.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return SPEECH
    if architecture.endswith("Model"):  # without the layer that chooses tokens
        return TRANSLATOR if _is_encoder_decoder(model_type, config) else EMBEDDINGS
    is_told = bool(architecture or config.get("is_decoder"))
    for table, kind in BY_TABLE:
        if model_type in getattr(tables, table) and not (kind is ENCODER and is_told):
            return kind
    return "" if writes else PICTURES


def _is_encoder_decoder(model_type: str, config: Mapping[str, Any]) -> bool:
    """True for encoder-decoder models; where config.json is silent, the class tells."""
    named = config.get("is_encoder_decoder")
    if isinstance(named, bool):
        return named
    from transformers import CONFIG_MAPPING

    return bool(getattr(CONFIG_MAPPING[model_type], "is_encoder_decoder", False))
