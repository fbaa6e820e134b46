"""What browsers get: vendored files are what they claim, built files are current, templates are clean."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
MANIFEST = json.loads((ROOT / "static/vendor/manifest.json").read_text())

each_template = pytest.mark.parametrize(
    "path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT / "templates"))
)


def test_vendored_files_have_the_hash_the_name_and_the_licence_of_the_manifest() -> None:
    listed = {one["path"]: one for one in MANIFEST if "sha256" in one}
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "static/vendor").iterdir()}
    assert shipped - {"static/vendor/manifest.json"} <= listed.keys()
    for path, one in listed.items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == one["sha256"], path
    for one in MANIFEST:
        assert one["name"] and one["version"] and one["licence"], one


def test_manifest_names_the_versions_that_package_json_pins() -> None:
    pinned = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert {one["name"]: one["version"] for one in MANIFEST}.items() <= pinned.items()


def test_lock_file_names_no_registry() -> None:
    assert "resolved" not in (ROOT / "package-lock.json").read_text()


def test_built_files_are_current(tmp_path: Path) -> None:
    if shutil.which("node") is None or not (ROOT / "node_modules/@tailwindcss/cli").exists():
        pytest.skip("no node_modules: `make assets` brings them, for developers of pages")
    subprocess.run(["node", "static/build.mjs", str(tmp_path)], cwd=ROOT, check=True)
    built = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert built
    stale = [
        str(path.relative_to(tmp_path))
        for path in built
        if path.read_bytes() != (ROOT / path.relative_to(tmp_path)).read_bytes()
    ]
    assert stale == [], "run `make assets`"


def test_every_icon_in_use_is_in_the_sprite() -> None:
    sprite = set(re.findall(r'<symbol id="([a-z0-9-]+)"', (ROOT / "static/icons.svg").read_text()))
    sources = [*TEMPLATES, *(ROOT / "console").rglob("*.py")]
    uses = re.compile(r'(?<![:\w])icon="([a-z0-9-]+)"|<c-icon name="([a-z0-9-]+)"')
    used = {name for path in sources for match in uses.findall(path.read_text()) for name in match if name}
    assert used == sprite, "run `make assets`"


@each_template
def test_template_has_no_inline_script_style_or_handler(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style\b", text)
    assert not re.search(r"\sstyle=", text)
    assert not re.search(r"\son[a-z]+=", text)
    assert not re.search(r"\bhx-(on|vars)|javascript:", text)


@each_template
def test_template_asks_nobody_else(path: Path) -> None:
    assert not re.search(r"""(src|href|action)=["'](https?:)?//""", path.read_text())


@each_template
def test_template_escapes_what_people_and_models_write(path: Path) -> None:
    safe = re.findall(r"\{\{[^}]*\|\s*safe\b[^}]*\}\}|autoescape off", path.read_text())
    assert [one for one in safe if "field.help_text" not in one] == []
