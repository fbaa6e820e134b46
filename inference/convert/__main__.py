"""The child process that imports models: arguments in, JSON lines of progress out, SIGTERM cancels."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from inference.convert.gguf_header import BadHeader, check_gguf
from inference.convert.model_folder import RECEIPT, UnsafeModel, check_folder, manifest, sha256
from inference.convert.output import CannotWrite, check_disk, whole_folder

SPARE_BYTES = 64 * 2**20  # tokenizer, configuration, headers
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class Cancelled(BaseException):
    """SIGTERM or SIGINT came, or the parent is gone. Not an `Exception`, so that no library swallows it."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _cancel)
    signal.signal(signal.SIGINT, _cancel)
    if options.with_parent:
        threading.Thread(target=_cancel_with_parent, daemon=True).start()
    try:
        return _say(event="done", **run(options))
    except (BadHeader, UnsafeModel) as error:
        return _say(1, event="error", code="unsafe_model", message=str(error))
    except OSError as error:
        code = "cannot_write" if isinstance(error, CannotWrite) else "input_output_error"
        return _say(1, event="error", code=code, message=str(error))
    except Exception as error:  # a library may raise anything; whoever waits needs the reason
        traceback.print_exc()
        return _say(1, event="error", code="cannot_convert", message=f"{type(error).__name__}: {error}")
    except Cancelled:
        return _say(128 + signal.SIGTERM, event="cancelled")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Checks the source and, where a target is given, writes it; returns the folder and its manifest."""
    progress("checking", 0.0)
    if options.gguf:
        source = options.gguf.resolve(strict=True)
        num_weights = check_gguf(source).num_weights
        num_bytes = num_weights * DTYPE_BYTES[options.dtype]
    else:
        source = options.folder.resolve()
        files = check_folder(source)
        num_bytes = sum(path.stat().st_size for path in files.values())
        if options.target is None:
            return {"folder": str(source), "files": manifest(files)}
    target = options.target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(
        target.parent, num_bytes=num_bytes * (2 if options.gguf and options.quantize else 1) + SPARE_BYTES
    )
    with whole_folder(target) as part:
        receipt = _write(source, part, options)
        progress("checking the result", 0.9)
        written = manifest(check_folder(part))
        (part / RECEIPT).write_text(json.dumps({**receipt, "files": written}, indent=2) + "\n")
        progress("moving into place", 0.99)
    return {"folder": str(target), "files": written}


def _write(source: Path, part: Path, options: argparse.Namespace) -> dict[str, Any]:
    progress("starting torch", 0.05)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    receipt: dict[str, Any] = {"source": source.name, "transformers": transformers.__version__}
    if options.gguf:
        from inference.convert.gguf import convert_gguf

        receipt["source_sha256"] = sha256(source)
        floats = part / "floats" if options.quantize else part
        floats.mkdir(exist_ok=True)
        progress("converting", 0.2)
        convert_gguf(source, floats, dtype=getattr(torch, options.dtype))
        source = floats
    if options.quantize:
        import shutil

        from inference.convert.quantize import quantize_folder

        progress("quantizing", 0.6)
        receipt["quantization"] = quantize_folder(source, part, name=options.quantize)
        shutil.rmtree(part / "floats", ignore_errors=True)
    return receipt


def progress(stage: str, fraction: float) -> None:
    _say(event="progress", stage=stage, fraction=fraction)


def _say(exit_code: int = 0, **line: Any) -> int:
    print(json.dumps(line), flush=True)
    return exit_code


def _cancel(signum: int, frame: FrameType | None) -> None:
    raise Cancelled


def _cancel_with_parent() -> None:
    """Standard input is a pipe that the parent holds: it ends when the parent does, however that dies.

    Read without Python's buffer, whose lock a thread would still hold when the interpreter ends.
    """
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference.convert", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="a GGUF file to convert")
    source.add_argument(
        "--folder", type=Path, help="a folder of safetensors to check, and to quantize where asked"
    )
    parser.add_argument(
        "--target", type=Path, help="the folder to write; without one a folder is only checked"
    )
    parser.add_argument(
        "--dtype", choices=DTYPE_BYTES, default="bfloat16", help="of weights that come from GGUF"
    )
    parser.add_argument("--quantize", choices=["int8"], help="write quantized weights")
    parser.add_argument("--num-threads", type=int, help="CPU threads of torch")
    parser.add_argument("--with-parent", action="store_true", help="cancel when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
