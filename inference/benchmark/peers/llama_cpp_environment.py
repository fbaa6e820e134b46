"""llama.cpp as a peer: its Python package, built for this machine in its own environment, and its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = "llama-cpp-python[server]"
BUILD_OPTIONS = "-DGGML_NATIVE=ON"  # every instruction that this CPU has
FETCH_MODULE = "console.catalog.sources.default_gguf"  # in a process of its own: we import no console
ROOT = Path(__file__).resolve().parents[3]
LOG_LINES = 15


class NotThere(Exception):
    """The peer cannot be measured here; the message says why."""


def llama_cpp_python(build: Path) -> Path:
    """The environment's Python; built at the first call, which takes a C++ compiler and minutes."""
    environment = build / "llama-cpp-python"
    python = environment / "bin" / "python"
    if (environment / "complete").exists():
        return python
    print(f"building {PACKAGE} in {environment}, once; this takes minutes", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)  # noqa: S603
    log = environment / "build.log"
    install = [str(python), "-m", "pip", "install", "--no-binary", "llama-cpp-python", PACKAGE]
    with log.open("wb") as output:
        command = ["env", f"CMAKE_ARGS={BUILD_OPTIONS}", *install]
        built = subprocess.run(command, stdout=output, stderr=output, check=False)  # noqa: S603
    if built.returncode:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise NotThere(f"{PACKAGE} could not be built (a C++ compiler is needed), see {log}:\n{said}")
    (environment / "complete").touch()
    return python


def gguf_file(build: Path) -> Path:
    """The file that the default model was converted from; fetched once and checked, as our server does."""
    target = build / "default.gguf"
    if not target.exists():
        fetch = [sys.executable, "-m", FETCH_MODULE, str(build / "data" / "downloads"), str(target)]
        fetched = subprocess.run(fetch, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
        if fetched.returncode:
            said = "\n".join(fetched.stderr.splitlines()[-LOG_LINES:])
            raise NotThere(f"the default model's GGUF file could not be had (give --gguf): {said}")
    return target
