"""The servers that are compared over HTTP: how each is started, on which model."""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from inference.benchmark.peers.llama_cpp_environment import gguf_file, llama_cpp_python
from inference.benchmark.peers.servers import Server

ROOT = Path(__file__).resolve().parents[3]
TRANSFORMERS_PACKAGES = ("fastapi", "uvicorn")  # what its server needs beside this project's own packages
LLAMA_CONTEXT = "4096"


def our_server(data_dir: Path, model: str, settings: Mapping[str, str]) -> Server:
    """`manage.py serve` on a data directory of its own."""
    variables = {"DATA_DIR": str(data_dir), "DATABASE_URL": "", "REDIS_URL": "", **settings}
    manage = (sys.executable, str(ROOT / "manage.py"))

    def key() -> str:
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), *manage]
        issued = subprocess.run([*command, "issue_key", "benchmark"], check=True, capture_output=True)  # noqa: S603
        return issued.stdout.decode().split()[-1]

    return Server("pilothouse", (*manage, "serve"), model, "/ready", key, {**variables, "PORT": "{port}"})


def transformers_server(options: argparse.Namespace) -> Server:
    """transformers' own server on the folder that ours converted, unless another is given."""
    folder = options.folder or model_folder(options.build / "data")
    serve = ("-m", "transformers.cli.transformers", "serve", str(folder), "--continuous-batching")
    given = ("--dtype", options.peer_dtype, "--host", "127.0.0.1", "--port", "{port}")
    return Server(
        "transformers serve",
        (str(_transformers_python(options.build)), *serve, *given),
        model=str(folder),
        ready_path="/health",
        variables={"HF_HUB_OFFLINE": "1"},
    )


def llama_cpp_server(options: argparse.Namespace) -> Server:
    """llama-cpp-python's server on the GGUF file that ours was converted from. Raises `NotThere`."""
    gguf = options.gguf or gguf_file(options.build)
    serve = ("-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", LLAMA_CONTEXT)
    waits = ("--interrupt_requests", "false")  # or it drops a request when the next one comes
    return Server(
        "llama_cpp.server",
        (str(llama_cpp_python(options.build)), *serve, *waits, "--host", "127.0.0.1", "--port", "{port}"),
        model="smollm2-135m",
        ready_path="/v1/models",
    )


PEERS = {"transformers": transformers_server, "llama_cpp": llama_cpp_server}


def model_folder(data_dir: Path) -> Path:
    """The folder that our server converted and serves."""
    folders = sorted(
        {path.parent for path in data_dir.rglob("*.safetensors") if (path.parent / "config.json").exists()}
    )
    if len(folders) != 1:
        raise SystemExit(f"expected one model under {data_dir}, found {len(folders)}: give --folder")
    return folders[0]


def _transformers_python(build: Path) -> Path:
    """An environment that sees our packages, torch and transformers among them, and adds the peer's few."""
    environment = build / "transformers-serve"
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)  # noqa: S603
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path_file = environment / "lib" / version / "site-packages" / "pilothouse.pth"
        path_file.write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "-q", *TRANSFORMERS_PACKAGES]
        subprocess.run(install, check=True)  # noqa: S603
        (environment / "complete").touch()
    return python
