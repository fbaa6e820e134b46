"""llama.cpp as a peer: its Python package, built for this machine in its own environment, and its file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llama-cpp-python[server]"
BUILD_OPTIONS = "-DGGML_NATIVE=ON"  # every instruction that this CPU has
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
    """The file that the default model was converted from: in the wheel that our server fetched."""
    wheels = sorted((build / "data" / "downloads").glob("*.whl"))
    if not wheels:
        raise NotThere(f"no wheel with a GGUF file lies in {build / 'data' / 'downloads'}: give --gguf")
    with zipfile.ZipFile(wheels[0]) as archive:
        member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if member is None:
            raise NotThere(f"{wheels[0].name} holds no GGUF file: give --gguf")
        target = build / Path(member).name
        if not target.exists():
            part = target.with_suffix(".part")
            part.write_bytes(archive.read(member))
            part.replace(target)
    return target
