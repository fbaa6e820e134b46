"""Repositories of a hub over a socket: pinned, checked, gone on with, and refused in words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoints.model_folder import check_folder
from inference.convert import output
from inference.convert.hub import __main__ as child
from tests.hub import COMMIT, Hub, Repository, serving
from tests.inference.convert.hostile import model_folder

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "someone/Tiny-1.0"
BOTH = pytest.mark.parametrize("kind", ["huggingface", "modelscope"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = model_folder(tmp_path_factory.mktemp("hub") / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "consolidated.safetensors").write_bytes(b"a second set of weights")
    return folder


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    with serving() as hub:
        hub.add(REPOSITORY, model)
        yield hub


class Fetched:
    """How a child ended."""

    def __init__(self, lines: list[dict[str, Any]], log: str) -> None:
        self.lines, self.last, self.log = lines, lines[-1], log

    @property
    def folder(self) -> Path:
        return Path(self.last["folder"])

    @property
    def error(self) -> tuple[str, str]:
        return self.last["code"], self.last["message"]


def command(hub: Hub, folder: Path, kind: str, revision: str, endpoint: str) -> list[str]:
    return [
        *(sys.executable, "-m", "inference.convert.hub", "--with-parent"),
        *("--kind", kind),
        *("--endpoint", endpoint or hub.endpoint, "--repository", REPOSITORY, "--revision", revision),
        *("--folder", str(folder)),
    ]


def start(hub: Hub, folder: Path, *, kind: str = "huggingface", revision: str = "", endpoint: str = "",
          token: str = "") -> subprocess.Popen[str]:  # fmt: skip
    process = subprocess.Popen(
        command(hub, folder, kind, revision, endpoint), cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(token + "\n")
    process.stdin.flush()
    return process


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Fetched]]:
    """The child's work in this process, which is quicker; its signal handlers are taken back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*, kind: str = "huggingface", revision: str = "", endpoint: str = "", token: str = "") -> Fetched:
        arguments = command(hub, tmp_path, kind, revision, endpoint)[4:]
        child.run(child._parser().parse_args(arguments), token)
        said = capfd.readouterr()
        return Fetched([json.loads(line) for line in said.out.splitlines()], said.err)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def partial(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/.model.safetensors.part"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@BOTH
def test_a_branch_becomes_the_commit_that_it_stands_at(
    kind: str, fetch: Callable[..., Fetched], model: Path
) -> None:
    fetched = fetch(kind=kind, revision="v1.0")
    assert fetched.last["commit"] == COMMIT and fetched.folder.name == f"someone--Tiny-1.0@{COMMIT}"
    names = {path.name for path in fetched.folder.iterdir()}
    assert names == {path.name for path in model.iterdir()} - {
        "pytorch_model.bin",
        "consolidated.safetensors",
    }
    for name in names:
        assert (fetched.folder / name).read_bytes() == (model / name).read_bytes()
    assert "model.safetensors" in check_folder(fetched.folder)
    fractions = [line["fraction"] for line in fetched.lines if line.get("event") == "progress"]
    assert fractions == sorted(fractions) and fractions[0] == 0.0


@BOTH
def test_what_has_arrived_is_not_fetched_again_after_a_kill(
    kind: str, hub: Hub, fetch: Callable[..., Fetched], tmp_path: Path, model: Path
) -> None:
    size = (model / "model.safetensors").stat().st_size
    hub.piece_bytes, hub.piece_seconds = size // 20, 0.05
    with start(hub, tmp_path, kind=kind) as process:
        until(lambda: partial(tmp_path) > size // 4)
        process.kill()
    kept = partial(tmp_path)
    hub.piece_seconds, hub.asked[:] = 0.0, []
    fetched = fetch(kind=kind)
    [begun] = [int(one.headers["range"][6:-1]) for one in hub.asked if "range" in one.headers][-1:]
    assert begun == kept and kept >= size // 4
    assert (fetched.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert not list(fetched.folder.glob(".*.part"))


def test_a_connection_that_breaks_is_taken_up_again(
    hub: Hub, fetch: Callable[..., Fetched], model: Path
) -> None:
    hub.cut_after = 12_345
    fetched = fetch()
    assert (fetched.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "bytes=12345-" in [one.headers.get("range") for one in hub.asked]


def test_a_server_without_ranges_is_asked_from_the_beginning(
    hub: Hub, fetch: Callable[..., Fetched], model: Path
) -> None:
    hub.cut_after, hub.knows_ranges = 12_345, False
    fetched = fetch()
    assert (fetched.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_sigterm_cancels_and_keeps_what_has_arrived(hub: Hub, tmp_path: Path, model: Path) -> None:
    hub.piece_bytes, hub.piece_seconds = 10_000, 0.05
    with start(hub, tmp_path) as process:
        until(lambda: partial(tmp_path) > 0)
        process.terminate()
        assert process.stdout is not None
        assert json.loads(process.stdout.read().splitlines()[-1]) == {"event": "cancelled"}
    assert process.returncode == 128 + signal.SIGTERM and partial(tmp_path) > 0


def test_the_token_opens_gated_files_and_goes_to_the_hub_alone(
    hub: Hub, fetch: Callable[..., Fetched]
) -> None:
    hub.repositories[REPOSITORY].is_gated = True
    fetched = fetch(token=hub.token)
    assert fetched.last["event"] == "done"
    at_cdn = [one for one in hub.asked if one.host == "cdn"]
    assert at_cdn and not any(hub.token in str(one.headers) for one in at_cdn)
    assert hub.token not in json.dumps(fetched.lines) + fetched.log
    assert "authorization" in next(one for one in hub.asked if "/resolve/" in one.path).headers


@BOTH
def test_a_gated_repository_says_what_to_do(kind: str, hub: Hub, fetch: Callable[..., Fetched]) -> None:
    hub.repositories[REPOSITORY].is_gated = True
    for token in ("", "a token that may not"):
        code, message = fetch(kind=kind, token=token).error
        assert code == "hub_token" and "HUB_TOKEN" in message and "hub-token" not in message


@BOTH
def test_a_repository_or_commit_that_is_missing_is_named(
    kind: str, hub: Hub, fetch: Callable[..., Fetched]
) -> None:
    code, message = fetch(kind=kind, revision="v9").error
    assert code == "hub_not_found" and "'v9'" in message
    hub.repositories.clear()
    code, message = fetch(kind=kind).error
    assert code == "hub_not_found" and REPOSITORY in message


@BOTH
def test_without_network_the_message_says_so(kind: str, fetch: Callable[..., Fetched]) -> None:
    code, message = fetch(kind=kind, endpoint="http://127.0.0.1:9").error
    assert code == "hub_unreachable" and "HUB_ENDPOINT" in message


def test_an_address_that_is_no_modelscope_is_named(fetch: Callable[..., Fetched], hub: Hub) -> None:
    code, message = fetch(kind="modelscope", endpoint=f"{hub.endpoint}/elsewhere").error
    assert code == "hub_not_found" and "does not exist" in message


@BOTH
def test_other_bytes_than_the_hub_names_are_deleted(
    kind: str, hub: Hub, fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    repository = hub.repositories[REPOSITORY]
    repository.listed = dict(repository.files)
    content = repository.files["model.safetensors"]
    repository.files["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    code, message = fetch(kind=kind).error
    assert code == "hub_checksum" and "model.safetensors" in message
    assert not list(tmp_path.glob("*/*model.safetensors*"))


def test_a_file_that_never_ends_is_cut_off(hub: Hub, fetch: Callable[..., Fetched], tmp_path: Path) -> None:
    repository = hub.repositories[REPOSITORY]
    repository.listed = dict(repository.files)
    repository.files["config.json"] += bytes(5_000_000)
    assert fetch().error[0] == "hub_checksum"
    assert all(path.stat().st_size < 1_000_000 for path in tmp_path.glob("*/.config*"))


def without_weights(repository: Repository, name: str) -> None:
    for one in [name for name in repository.files if name.endswith((".safetensors", ".bin"))]:
        del repository.files[one]
    repository.files[name] = b"x"


HOSTILE: dict[str, tuple[Callable[[Repository], Any], str]] = {
    "its own code": (
        lambda repository: repository.files.update({"config.json": b'{"model_type": "x", "auto_map": {}}'}),
        "auto_map",
    ),
    "a file elsewhere": (
        lambda repository: repository.files.update({"../../evil.json": b"{}"}),
        "outside of the repository",
    ),
    "an absolute file": (lambda repository: repository.files.update({"/etc/evil.json": b"{}"}), "outside"),
    "pickles only": (lambda repository: without_weights(repository, "pytorch_model.bin"), "can carry code"),
    "GGUF only": (lambda repository: without_weights(repository, "tiny.gguf"), "import it as a GGUF file"),
    "an adapter": (lambda repository: without_weights(repository, "adapter_config.json"), "adapter"),
}


@pytest.mark.parametrize(("spoil", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_repository_is_refused_before_its_weights_are_fetched(
    spoil: Callable[[Repository], Any], reason: str, hub: Hub, fetch: Callable[..., Fetched], tmp_path: Path
) -> None:
    spoil(hub.repositories[REPOSITORY])
    code, message = fetch().error
    assert code == "unsafe_model" and reason in message
    assert not [one for one in hub.asked if one.path.endswith((".safetensors", ".bin"))]
    assert not list(tmp_path.parent.rglob("evil.json"))


def test_a_disk_that_is_too_small_is_said_before_weights_are_fetched(
    hub: Hub, fetch: Callable[..., Fetched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = output.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, message = fetch().error
    assert code == "cannot_write" and "disk is too small" in message
    assert not [one for one in hub.asked if "/resolve/" in one.path]
