"""The child process that imports models: arguments in, JSON lines of progress out, SIGTERM cancels."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from inference.checkpoints.model_folder import (
    CannotLoad,
    NotServed,
    UnsafeModel,
    check_folder,
    ignored,
    manifest,
    sha256,
)
from inference.checkpoints.safetensors_header import BadHeader
from inference.checkpoints.serving_files import RECEIPT
from inference.child_process import progress, report
from inference.config import GGUF_CONVERTER, Quantization
from inference.convert.facts import facts, licence
from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.parts import check_gguf, part_paths
from inference.convert.output import CannotWrite, atomic_folder, check_disk
from inference.convert.prompt_trial import try_prompts

MAX_SAID = 20  # names of files that were passed over
SPARE_BYTES = 64 * 2**20  # tokenizer, configuration, headers
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


# Error codes of failures that people can mend; the first that fits is reported.
CODES: dict[type[Exception], str] = {
    BadHeader: "unsafe_model",
    UnsafeModel: "unsafe_model",
    NotServed: "not_served",
    CannotLoad: "cannot_load",
    CannotConvert: "cannot_convert",
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
    header = None
    if options.gguf:
        source = options.gguf.resolve(strict=True)
        header = check_gguf(source)
        num_bytes = header.num_weights * DTYPE_BYTES[options.dtype]
        passed_over: list[str] = []
        named: str | None = header.licence
    else:
        source = options.folder.resolve()
        files = check_folder(source)
        passed_over = ignored(source, files)
        num_bytes = sum(path.stat().st_size for path in files.values())
        progress("trying tokenizer and template", 0.02)
        of_prompts = try_prompts(source)
        if options.target is None or not (options.quantize or passed_over):
            found = _described(source, files) | of_prompts
            return {"folder": str(source), "files": manifest(files), "facts": found}
        named = licence(source)
    target = options.target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(
        target.parent, num_bytes=num_bytes * (2 if options.gguf and options.quantize else 1) + SPARE_BYTES
    )
    with atomic_folder(target) as part:
        is_made = options.gguf or options.quantize
        receipt = _write(source, part, options, header) if is_made else _copy(files, part)
        progress("checking the result", 0.9)
        files = check_folder(part)
        written = manifest(files)
        (part / RECEIPT).write_text(json.dumps({**receipt, "files": written}, indent=2) + "\n")
        if options.gguf:
            of_prompts = try_prompts(part)
        found = _described(part, files) | of_prompts
        if named:
            found["licence"] = named  # a target holds no README
        if passed_over:
            found["ignored"] = passed_over[:MAX_SAID]
            found["num_ignored"] = len(passed_over)
        progress("moving into place", 0.99)
    return {"folder": str(target), "files": written, "facts": found}


def _described(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The facts of the files, and those of a trial load by transformers. Raises `CannotLoad`."""
    progress("trying it", 0.92)
    from inference.convert.load_trial import trial_facts

    return facts(folder, files) | trial_facts(folder)


def _copy(files: Mapping[str, Path], part: Path) -> dict[str, Any]:
    """Copies the files that serving reads out of a larger folder."""
    total = sum(path.stat().st_size for path in files.values()) or 1
    done = 0
    for name, path in files.items():
        progress("copying", 0.8 * done / total)
        (part / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, part / name)
        done += path.stat().st_size
    return {"copied": sorted(files)}


def _write(
    source: Path, part: Path, options: argparse.Namespace, header: GgufHeader | None
) -> dict[str, Any]:
    progress("starting torch", 0.05)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    receipt: dict[str, Any] = {"source": source.name, "transformers": transformers.__version__}
    if header is not None:
        from inference.convert.gguf.folder import convert_gguf

        receipt["converter"] = GGUF_CONVERTER
        hashes = {path.name: sha256(path) for path in part_paths(header)}
        receipt["source_sha256"] = hashes if len(hashes) > 1 else next(iter(hashes.values()))
        floats = part / "floats" if options.quantize else part
        progress("converting", 0.2)
        convert_gguf(
            header,
            floats,
            dtype=getattr(torch, options.dtype),
            progress=lambda done: progress("converting", 0.2 + 0.4 * done),
        )
        source = floats
    if options.quantize:
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
        "--target",
        type=Path,
        help="the folder to write; without one a folder is only checked, with one it is left where it is"
        " if it holds nothing but what serving reads, and else that is copied",
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
