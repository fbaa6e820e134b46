"""A GGUF model cut into several files is found whole by any of them; weights come one after the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inference.checkpoints.model_folder import check_folder
from inference.checkpoints.safetensors_header import BadHeader
from inference.convert import __main__ as child
from inference.convert.gguf import header as gguf_header
from inference.convert.gguf import parts as gguf_parts
from inference.convert.gguf import tensors as gguf_blocks
from inference.convert.gguf import weights as gguf_weights
from inference.convert.gguf.folder import convert_gguf
from inference.convert.gguf.header import CannotConvert, GgufHeader, GgufTensor
from inference.convert.gguf.parts import check_gguf
from tests.inference.convert.hostile import tiny_gguf


def split_gguf(folder: Path, monkeypatch: pytest.MonkeyPatch, *, tensors: int = 6) -> list[Path]:
    """The tiny model as llama.cpp's converter cuts it."""
    plain = gguf.GGUFWriter

    def cutting(path: Path, architecture: str) -> gguf.GGUFWriter:
        return plain(path, architecture, split_max_tensors=tensors)

    folder.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", cutting)
        torch.manual_seed(3)
        tiny_gguf(folder / "tiny.gguf")
    return sorted(folder.iterdir())


def weights(folder: Path) -> dict[str, Any]:
    files = check_folder(folder)
    return load_file(files["model.safetensors"])


@pytest.mark.parametrize("named", [0, 1, -1])
def test_any_part_stands_for_the_model(named: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_gguf(tmp_path / "split", monkeypatch)
    assert len(parts) == 4
    torch.manual_seed(3)
    tiny_gguf(tmp_path / "whole.gguf")
    convert_gguf(check_gguf(tmp_path / "whole.gguf"), tmp_path / "a", dtype=torch.float32)
    convert_gguf(check_gguf(parts[named]), tmp_path / "b", dtype=torch.float32)
    whole, joined = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert whole.keys() == joined.keys()
    assert all(torch.equal(whole[name], joined[name]) for name in whole)


def test_missing_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_gguf(tmp_path / "split", monkeypatch)
    parts[1].unlink()
    parts[3].unlink()
    with pytest.raises(BadHeader, match=r"4 parts.* missing: tiny-00002-of-00004\.gguf, tiny-00004-of-"):
        check_gguf(parts[0])


def test_parts_that_are_called_otherwise_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_gguf(tmp_path / "split", monkeypatch)
    renamed = parts[0].rename(tmp_path / "model.gguf")
    with pytest.raises(BadHeader, match="NAME-00001-of-00004"):
        check_gguf(renamed)


def test_a_part_of_another_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_gguf(tmp_path / "split", monkeypatch)
    shutil.copy(parts[2], parts[1])
    with pytest.raises(BadHeader, match=r"00002-of-00004\.gguf says of itself"):
        check_gguf(parts[0])


def test_the_header_is_parsed_once_and_no_table_of_tokens_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    headers, whole, largest = [], [], []

    def read(path: Path) -> GgufHeader:
        headers.append(path)
        return gguf_header.read_gguf(path)

    def read_tensor(tensor: GgufTensor) -> Any:
        whole.append(tensor.name)
        return gguf_blocks.read_tensor(tensor)

    def pieces(tensor: GgufTensor) -> Any:
        for piece in gguf_blocks.pieces(tensor):
            largest.append(piece.size)
            yield piece

    monkeypatch.setattr(gguf_parts, "read_gguf", read)
    monkeypatch.setattr(gguf_weights, "read_tensor", read_tensor)
    monkeypatch.setattr(gguf_weights, "pieces", pieces)
    monkeypatch.setattr(gguf_blocks, "PIECE_WEIGHTS", 1000)
    arguments = ["--gguf", str(tmp_path / "tiny.gguf"), "--target", str(tmp_path / "made")]
    child.run(child._parser().parse_args([*arguments, "--dtype", "float32"]))
    assert len(headers) == 1
    assert "token_embd.weight" not in whole and "output.weight" not in whole
    assert max(largest) <= 1000 and sum(largest) == 2 * 260 * 32


def test_a_bias_that_the_model_has_no_place_for_is_not_dropped(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    header = check_gguf(tmp_path / "tiny.gguf")
    norm = header.tensors["output_norm.weight"]
    header.tensors["blk.0.ffn_norm.bias"] = norm
    with pytest.raises(CannotConvert, match=r"blk\.0\.ffn_norm\.bias"):
        convert_gguf(header, tmp_path / "made", dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general.architecture": "deepseek2"}, "'deepseek2' are not converted .*llama"),
        ({"general.architecture": "t5"}, "'t5' are not converted"),
        ({"llama.block_count": 3}, "the file lacks model.layers.2"),
        ({"llama.block_count": "many"}, "not as llama files are expected"),
        ({"llama.attention.head_count": 0}, "not as llama files are expected"),
        ({"llama.feed_forward_length": 48}, "another size|rows of"),
    ],
)
def test_no_library_error_is_all_that_is_said(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    header = check_gguf(tmp_path / "tiny.gguf")
    header.keys.update(change)
    with pytest.raises(CannotConvert, match=said):
        convert_gguf(header, tmp_path / "made", dtype=torch.float32)


def test_every_kind_of_block_reads_as_the_library_dequantizes_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    for kind in (
        gguf.GGMLQuantizationType.Q8_0,
        gguf.GGMLQuantizationType.Q4_1,
        gguf.GGMLQuantizationType.BF16,
    ):
        rows = generator.normal(size=(7, 64)).astype(np.float32)
        blocks = gguf.quantize(rows, kind)
        path = tmp_path / f"{kind.name}.bin"
        path.write_bytes(b"12345678" + blocks.tobytes())
        tensor = GgufTensor("w", (64, 7), int(kind), path, 8, blocks.nbytes)
        np.testing.assert_array_equal(gguf_blocks.read_tensor(tensor), gguf.dequantize(blocks, kind))


def test_the_receipt_tells_the_converter_and_the_source(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    arguments = ["--gguf", str(tmp_path / "tiny.gguf"), "--target", str(tmp_path / "made")]
    done = child.run(child._parser().parse_args(arguments))
    receipt = json.loads((tmp_path / "made" / "converted.json").read_text())
    assert receipt["converter"] == done["facts"]["converter"] == child.GGUF_CONVERTER
