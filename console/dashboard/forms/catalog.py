"""Forms of the catalog's pages: where a model comes from, and how the engine runs a revision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.catalog.models import Deployment, Revision
from console.deployments.settings_advice import Advice, advise
from console.deployments.settings_plan import faults, plan_of
from console.environment import environment
from inference.config import Attention, Device, Dtype, EngineConfig, KvDtype, Quantization, SamplingDefaults

MOST = 10_000_000
MOST_IDLE_SECONDS = 30 * 86400
NO = "no"
Labels = list[tuple[str, str | Promise]]
DEFAULT = _("Server default (%(value)s)")
ON_OFF = {"on": _("on"), "off": _("off")}
SOURCES: Labels = [
    ("hub", _("Hugging Face Hub, or a mirror")),
    ("folder", _("Folder on the server")),
    ("gguf", _("GGUF file on the server")),
    ("package", _("Package: the default model")),
]
LOCATIONS: dict[str, tuple[Any, Any, str]] = {  # source -> label, hint, example
    "hub": (
        _("Model id"),
        _("Owner and name, as the hub writes them."),
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "folder": (
        _("Folder"),
        _("With config.json, safetensors and the tokenizer's files."),
        "/models/my-model",
    ),
    "gguf": (
        _("File"),
        _("It is turned into safetensors; quantized weights are unpacked."),
        "/models/my-model.gguf",
    ),
    "package": ("", "", ""),
}


class FindModelsForm(forms.Form):
    """What the list is narrowed to; anything odd in the address is ignored."""

    words = forms.CharField(label=_("Name"), required=False, max_length=64)
    state = forms.ChoiceField(
        label=_("A revision is"), required=False, choices=[("", _("in any state")), *Deployment.State.choices]
    )

    def wish(self) -> dict[str, str]:
        self.is_valid()
        return {name: self.cleaned_data.get(name, "") for name in ("words", "state")}


class ImportForm(forms.Form):
    source = forms.ChoiceField(label=_("Where it comes from"), choices=SOURCES, initial="hub")
    location = forms.CharField(
        max_length=1000,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    commit = forms.CharField(
        label=_("Commit or branch"),
        required=False,
        max_length=100,
        help_text=_("A branch is pinned to the commit that it stands at now. Empty: main."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    name = forms.CharField(
        label=_("Name here"),
        max_length=64,
        required=False,
        help_text=_("Callers ask for it by this name. A name that exists gets one more revision."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    quantize = forms.ChoiceField(
        label=_("Weights"), required=False, choices=[("", _("as they are")), ("int8", _("quantize to int8"))]
    )
    max_model_len = forms.IntegerField(
        label=_("Context, in tokens"),
        required=False,
        min_value=1,
        max_value=MOST,
        help_text=_("Empty: as the model's files say."),
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chosen = self["source"].value() if self["source"].value() in LOCATIONS else "hub"
        label, hint, example = LOCATIONS[self.chosen]
        location = self.fields["location"]
        location.label, location.help_text = label, hint
        location.widget.attrs["placeholder"] = example
        self.suggested_name = suggested_name(self.chosen, str(self["location"].value() or ""))
        self.fields["name"].widget.attrs["placeholder"] = self.suggested_name

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if self.chosen != "package" and not cleaned.get("location") and "location" not in self.errors:
            self.add_error("location", _("This field is required."))
        if not cleaned.get("name") and "name" not in self.errors:
            cleaned["name"] = self.suggested_name
        return cleaned

    def wish(self) -> dict[str, Any]:
        """The arguments of `start_import`."""
        given = {name: self.cleaned_data[name] for name in ("source", "location", "name")}
        is_hub = self.chosen == "hub"
        return given | {
            "commit": self.cleaned_data["commit"] if is_hub else "",
            "quantize": self.cleaned_data["quantize"] or None,
            "engine": {"max_model_len": length} if (length := self.cleaned_data["max_model_len"]) else {},
        }


def suggested_name(source: str, location: str) -> str:
    """A public name out of a path or a hub's id: its last part, in the signs that a name may have."""
    if source == "package":
        return "smollm2-135m"
    last = re.sub(r"\.gguf$", "", location.strip().rstrip("/").rpartition("/")[2].lower())
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._")[:64]


class SettingsForm(forms.Form):
    """Engine settings; empty means the installation's. Each field's advice stands beside it."""

    device = forms.ChoiceField(label=_("Device"), required=False)
    dtype = forms.ChoiceField(label=_("Data type"), required=False)
    attention = forms.ChoiceField(label=_("Attention"), required=False)
    quantization = forms.ChoiceField(label=_("Quantize while loading"), required=False)
    kv_dtype = forms.ChoiceField(label=_("Keys and values"), required=False)
    batching = forms.ChoiceField(label=_("Batching"), required=False)
    batch_invariant = forms.ChoiceField(label=_("Batch-invariant results"), required=False)
    prefix_caching = forms.ChoiceField(label=_("Prefix cache"), required=False)
    sampling_defaults = forms.ChoiceField(label=_("Sampling where a request is silent"), required=False)
    num_blocks = forms.IntegerField(
        label=_("KV blocks, of 16 tokens"), required=False, min_value=1, max_value=MOST
    )
    max_model_len = forms.IntegerField(
        label=_("Context, in tokens"), required=False, min_value=1, max_value=MOST
    )
    max_batch_tokens = forms.IntegerField(
        label=_("Tokens in one step"), required=False, min_value=1, max_value=MOST
    )
    max_num_seqs = forms.IntegerField(
        label=_("Answers in one step"), required=False, min_value=1, max_value=65536
    )
    num_draft_tokens = forms.IntegerField(
        label=_("Speculative tokens"), required=False, min_value=0, max_value=16
    )

    def __init__(self, *args: Any, revision: Revision, **kwargs: Any) -> None:
        kwargs.setdefault("initial", shown(revision.engine))
        super().__init__(*args, **kwargs)
        self.revision = revision
        for name, choices in CHOICES.items():
            default = DEFAULT % {"value": ON_OFF.get(said := shown_default(name), said)}
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", default), *choices]
        for name in NUMBERS:
            self.fields[name].widget.attrs |= {"placeholder": shown_default(name), "inputmode": "numeric"}

    def engine(self) -> dict[str, Any]:
        """The settings that differ from the installation's, with those that the form does not show."""
        kept = {name: value for name, value in self.revision.engine.items() if name not in self.fields}
        given = {
            name: value for name in self.fields if (value := self.cleaned_data.get(name)) not in ("", None)
        }
        for name in ("batching", "prefix_caching", "batch_invariant"):
            if name in given:
                given[name] = given[name] == "on"
        if given.get("quantization") == NO:
            given["quantization"] = None
        return kept | given

    def advice(self) -> dict[str, Advice]:
        """For what was typed where it is sound, for the revision as it is where not."""
        if self.is_bound:
            self.is_valid()
        else:
            self.cleaned_data = {
                name: self.get_initial_for_field(field, name) for name, field in self.fields.items()
            }
        return advise(plan_of(self.revision, self.engine()))

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            for name, why in faults(self.revision, self.engine()).items():
                self.add_error(name if name in self.fields else None, why)
        return cleaned


def named(*values: str) -> Labels:
    return [(value, value) for value in values if value != "auto"]


CHOICES: dict[str, Labels] = {
    "device": [("auto", _("GPU where there is one")), ("cuda", "CUDA"), ("cpu", "CPU")],
    "dtype": [("auto", _("the fastest here")), *named(*get_args(Dtype))],
    "attention": [("auto", _("the fastest here")), *named(*get_args(Attention))],
    "quantization": [*named(*get_args(Quantization)), (NO, _("no"))],
    "batching": list(ON_OFF.items()),
    "prefix_caching": list(ON_OFF.items()),
    "kv_dtype": [("auto", _("as the data type")), *named(*get_args(KvDtype))],
    "batch_invariant": list(ON_OFF.items()),
    "sampling_defaults": [("model", _("as the model's files say")), ("openai", _("OpenAI's defaults"))],
}
NUMBERS = ("num_blocks", "max_model_len", "max_batch_tokens", "max_num_seqs", "num_draft_tokens")
assert {value for value, _label in CHOICES["device"]} == set(get_args(Device))
assert {value for value, _label in CHOICES["sampling_defaults"]} == set(get_args(SamplingDefaults))


def shown(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the form's controls know them."""
    words = {True: "on", False: "off", None: NO}
    is_word = {name: value is None or isinstance(value, bool) for name, value in engine.items()}
    return {name: words[value] if is_word[name] else value for name, value in engine.items()}


def shown_default(name: str) -> str:
    """What the installation says, in the words of the form's choices."""
    value = (environment().engine_settings() | {}).get(name, getattr(EngineConfig(), name))
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(
        _("none") if name == "quantization" and value is None else _("auto") if value is None else value
    )


class KeepingForm(forms.Form):
    """How long a revision stays in memory."""

    is_pinned = forms.BooleanField(
        label=_("Pinned"),
        required=False,
        help_text=_("It stays, whoever needs the memory and however long nobody asks."),
    )
    idle_seconds = forms.IntegerField(
        label=_("Unload when idle for (seconds)"),
        required=False,
        min_value=0,
        max_value=MOST_IDLE_SECONDS,
        help_text=_("Empty: Server default. 0: never for idleness."),
    )
