"""The child process that imports models: arguments in, JSON lines of progress out, SIGTERM cancels."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

from inference.config import Quantization
from inference.convert.child import progress, report
from inference.convert.facts import facts, licence
from inference.convert.gguf_header import check_gguf
from inference.convert.output import CannotWrite, check_disk, whole_folder
from inference.convert.prompt_trial import try_prompts
from inference.models.model_folder import RECEIPT, UnsafeModel, check_folder, manifest, sha256
from inference.models.safetensors_header import BadHeader

SPARE_BYTES = 64 * 2**20  # tokenizer, configuration, headers
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


# What people can mend, by the code that whoever waits is given; the first that fits.
CODES: dict[type[Exception], str] = {
    BadHeader: "unsafe_model",
    UnsafeModel: "unsafe_model",
    CannotWrite: "cannot_write",
    OSError: "input_output_error",
}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    return report(
        lambda: run(options), with_parent=options.with_parent, codes=CODES, otherwise="cannot_convert"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Checks the source and, where a target is given, writes it; returns folder, manifest and facts."""
    progress("checking", 0.0)
    if options.gguf:
        source = options.gguf.resolve(strict=True)
        header = check_gguf(source)
        num_bytes = header.num_weights * DTYPE_BYTES[options.dtype]
        named: str | None = header.licence
    else:
        source = options.folder.resolve()
        files = check_folder(source)
        num_bytes = sum(path.stat().st_size for path in files.values())
        progress("trying tokenizer and template", 0.02)
        of_prompts = try_prompts(source)
        if options.target is None:
            return {
                "folder": str(source),
                "files": manifest(files),
                "facts": facts(source, files) | of_prompts,
            }
        named = licence(source)
    target = options.target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(
        target.parent, num_bytes=num_bytes * (2 if options.gguf and options.quantize else 1) + SPARE_BYTES
    )
    with whole_folder(target) as part:
        receipt = _write(source, part, options)
        progress("checking the result", 0.9)
        files = check_folder(part)
        if options.gguf:
            of_prompts = try_prompts(part)
        written, found = manifest(files), facts(part, files) | of_prompts
        if named:
            found["licence"] = named  # a target holds no README
        (part / RECEIPT).write_text(json.dumps({**receipt, "files": written}, indent=2) + "\n")
        progress("moving into place", 0.99)
    return {"folder": str(target), "files": written, "facts": found}


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
        receipt["quantization"] = quantize_folder(
            source, part, name=options.quantize, quantize_head=options.quantize_head
        )
        shutil.rmtree(part / "floats", ignore_errors=True)
    return receipt


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
    parser.add_argument("--quantize", choices=get_args(Quantization), help="write quantized weights")
    parser.add_argument("--quantize-head", action="store_true", help="the output layer, too")
    parser.add_argument("--num-threads", type=int, help="CPU threads of torch")
    parser.add_argument("--with-parent", action="store_true", help="cancel when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
