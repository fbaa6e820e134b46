"""Other engines on the same lists, offline, each in a process of its own that has the device to itself."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.benchmark.peers.llama_cpp_environment import NotThere, llama_cpp_python

BUILD = Path(__file__).resolve().parents[3] / "build" / "benchmark"
PEERS = ("vllm", "transformers", "llama_cpp")
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
LOG_LINES = 40


class PeerFailed(Exception):
    """The peer is not there, or gave no figures; the message has the last lines that it said."""


def run_peer(peer: str, options: argparse.Namespace, lists: Sequence[str], *, dtype: str) -> dict[str, Any]:
    """The peer's figures: `{"versions": ..., "workloads": {list: runs}}`. Raises `PeerFailed`."""
    python = _python(peer, options)
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch, "figures.json")
        log = Path(scratch, "log")
        with log.open("wb") as output:
            command = [*python, *_arguments(peer, options, lists, dtype, figures)]
            ended = subprocess.run(command, stdout=output, stderr=output, check=False)  # noqa: S603
        if not figures.exists():
            said = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise PeerFailed(f"{peer} ended with {ended.returncode} before its figures:\n{said}")
        result: dict[str, Any] = json.loads(figures.read_text())
        return result


def _python(peer: str, options: argparse.Namespace) -> list[str]:
    """What runs the peer's process: this Python, or the one that has the peer."""
    variables = [f"{name}={value}" for name, value in VARIABLES.items()]
    if peer == "llama_cpp":
        if options.gguf is None:
            raise PeerFailed("--peer llama_cpp reads GGUF files: name one by --gguf")
        try:
            return ["env", *variables, str(llama_cpp_python(BUILD))]
        except NotThere as error:
            raise PeerFailed(str(error)) from error
    if importlib.util.find_spec(peer) is None:
        raise PeerFailed(f"--peer {peer} needs the package {peer}, which this Python does not have")
    return ["env", *variables, sys.executable]


def _arguments(
    peer: str, options: argparse.Namespace, lists: Sequence[str], dtype: str, figures: Path
) -> list[str]:
    if peer == "llama_cpp":
        source = ["--gguf", str(options.gguf)]
    else:
        source = ["--folder", str(options.folder)] if options.folder else ["--shape", options.shape]
    given = {
        "--dtype": dtype,
        "--quantization": options.quantization,
        "--kv-dtype": options.kv_dtype,
        "--threads": options.threads,
    }
    return [
        *("-m", "inference.benchmark.peers.process", peer, *source),
        *("--lists", ",".join(lists), "--repeats", str(options.repeats), "--figures", str(figures)),
        *("--max-model-len", str(options.max_model_len), "--prefix-caching", options.prefix_caching),
        *(part for name, value in given.items() if value is not None for part in (name, str(value))),
    ]
