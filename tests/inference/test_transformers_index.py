"""The index of transformers' models is read once for as long as its files stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from inference.transformers_index import Index, KeptIndex

INDEX: Index = {
    frozenset(): {"tiny.configuration_tiny": {"TinyConfig"}},
    frozenset({"torch", "tokenizers"}): {"tiny.modeling_tiny": {"TinyModel", "TinyForCausalLM"}},
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "transformers" / "models"
    (folder / "tiny").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "tiny" / "modeling_tiny.py").write_text("class TinyModel: ...")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "index.json"


@pytest.fixture
def read() -> Mock:
    return Mock(return_value=INDEX)


def test_a_start_reads_the_models_once_and_the_next_one_not_at_all(
    models: Path, file: Path, read: Mock
) -> None:
    index = KeptIndex(file, read)
    assert index(models) == index(str(models / "__init__.py")) == INDEX
    assert read.call_count == 1
    assert KeptIndex(file, read)(models) == INDEX
    assert read.call_count == 1


def test_modules_get_the_prefix_that_is_asked_for_and_each_caller_a_copy(
    models: Path, file: Path, read: Mock
) -> None:
    index = KeptIndex(file, read)
    found = index(models, prefix="models")
    assert found[frozenset()] == {"models.tiny.configuration_tiny": {"TinyConfig"}}
    found[frozenset()].clear()
    assert index(models) == INDEX


def test_changed_files_are_read_again(models: Path, file: Path, read: Mock) -> None:
    KeptIndex(file, read)(models)
    os.utime(models / "tiny" / "modeling_tiny.py", (0, 0))
    KeptIndex(file, read)(models)
    assert read.call_count == 2
    (models / "tiny" / "tokenization_tiny.py").write_text("")
    KeptIndex(file, read)(models)
    assert read.call_count == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stamp": 1, "index": 2}'])
def test_a_spoilt_file_is_written_anew(models: Path, file: Path, read: Mock, text: str) -> None:
    file.write_text(text)
    assert KeptIndex(file, read)(models) == INDEX
    assert KeptIndex(file, read)(models) == INDEX
    assert read.call_count == 1


def test_what_cannot_be_kept_is_read_each_time(models: Path, tmp_path: Path, read: Mock) -> None:
    file = tmp_path / "missing" / "index.json"
    assert KeptIndex(file, read)(models) == KeptIndex(file, read)(models) == INDEX
    assert read.call_count == 2


def test_other_packages_are_none_of_its_business(tmp_path: Path, file: Path, read: Mock) -> None:
    KeptIndex(file, read)(tmp_path / "transformers" / "models" / "tiny" / "__init__.py", prefix="x")
    read.assert_called_once_with(tmp_path / "transformers" / "models" / "tiny" / "__init__.py", prefix="x")
    assert not file.exists()


def test_transformers_is_imported_with_it_and_finds_the_same(file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from inference import transformers_index\n"
        "transformers_index.install(Path(sys.argv[1]))\n"
        "import transformers.models; from transformers.utils import import_utils\n"
        "kept = import_utils.define_import_structure\n"
        "assert isinstance(kept, transformers_index.KeptIndex)\n"
        "folder = Path(transformers.__file__).parent / 'models'\n"
        "assert kept(folder, prefix='models') == kept._read(folder, prefix='models')\n"
        "from transformers import LlamaConfig, LlamaTokenizer\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(file)], check=True, timeout=120)
        assert file.exists()
