"""What a model folder may contain: data only, and only its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference.protocol import Refusal


class CannotLoad(Refusal):
    """A folder that will not be loaded, with the reason."""

    code = "model_cannot_load"


def check_folder(folder: Path) -> None:
    """Refuse folders without safetensors, with code of their own, or with files that lie elsewhere."""
    if not folder.is_dir():
        raise CannotLoad(f"{folder} is not a folder")
    root = folder.resolve()
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(root):
            raise CannotLoad(f"{path.name} points outside of the model's folder")
    config = read_json(folder / "config.json")
    if config is None:
        raise CannotLoad("config.json is missing")
    if not list(folder.glob("*.safetensors")):
        found = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
        has = f"; {found[0]} is a pickle, which can run code when it is read" if found else ""
        raise CannotLoad(f"no *.safetensors in the folder{has}")
    for name in ("config.json", "tokenizer_config.json"):
        if (read_json(folder / name) or {}).get("auto_map"):
            raise CannotLoad(f"{name} wants code from the model's folder (auto_map); remote code is not run")
    if (folder / "adapter_config.json").exists():
        raise CannotLoad("the folder holds an adapter, which names its base model by address; merge it first")
    index = read_json(folder / "model.safetensors.index.json") or {}
    for name in set(index.get("weight_map", {}).values()):
        if Path(name).name != name or not (folder / name).is_file():
            raise CannotLoad(f"model.safetensors.index.json names {name!r}, which is not in the folder")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CannotLoad(f"{path.name} is not a JSON object")
    return value
