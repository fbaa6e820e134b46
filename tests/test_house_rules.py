"""The rules of the house that no linter knows: sizes, docstrings, names, one reader of the environment."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("console", "inference", "monitoring")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts and path.read_text().strip()
)
MAX_FILE_LINES = 400
MAX_MEDIAN_LINES = 100  # of the files of a package
MAX_FILES_IN_A_FOLDER = 20  # that have code
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_METHODS = 15
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core", "services"}
READERS_OF_THE_ENVIRONMENT = {"console/settings.py", "console/environment.py"}
WRITERS_OF_IT = {"inference/__init__.py"}  # before a library reads it
# Makers of tensors and arrays. A call names dtype and device: defaults of torch belong to the whole process.
TENSORS = {
    "empty", "empty_strided", "empty_permuted", "zeros", "ones", "full", "arange", "range", "linspace",
    "logspace", "eye", "tensor", "as_tensor", "asarray", "scalar_tensor", "rand", "randn", "randint",
    "randperm", "normal", "tril_indices", "triu_indices", "hann_window", "hamming_window",
}  # fmt: skip
ON_THE_CPU = {"frombuffer", "from_file"}  # which take no device
ARRAYS = {
    "empty", "zeros", "ones", "full", "arange", "linspace", "eye", "array", "asarray", "fromiter",
    "frombuffer",
}  # fmt: skip
PROCESS_WIDE = {
    "set_default_dtype", "set_default_device", "set_default_tensor_type", "set_flush_denormal", "manual_seed",
    "use_deterministic_algorithms", "set_float32_matmul_precision", "set_num_interop_threads", "seed",
    "Tensor", "FloatTensor", "DoubleTensor", "LongTensor",  # whose dtype is a default, too
}  # fmt: skip

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


each_module_of_inference = pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.relative_to(ROOT).parts[0] == "inference"],
    ids=lambda path: str(path.relative_to(ROOT)),
)


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@each_module
def test_file_is_short_enough(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("package", PACKAGES)
def test_half_of_the_files_of_a_package_are_short(package: str) -> None:
    lengths = [len(path.read_text().splitlines()) for path in MODULES if path.is_relative_to(ROOT / package)]
    assert median(lengths) <= MAX_MEDIAN_LINES


def test_folders_hold_few_files() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.read_text().strip()]
    num_files = Counter(path.parent.relative_to(ROOT) for path in [*MODULES, *tests])
    assert {folder: num for folder, num in num_files.items() if num > MAX_FILES_IN_A_FOLDER} == {}


@each_module
def test_functions_are_short_enough(path: Path) -> None:
    tree = ast.parse(path.read_text())
    long = [f.name for f in functions(tree) if (f.end_lineno or f.lineno) - f.lineno + 1 > MAX_FUNCTION_LINES]
    assert long == []


@each_module
def test_classes_are_small_enough(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            public = [
                member.name
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                and not member.name.startswith("_")
            ]
            assert len(public) <= MAX_PUBLIC_METHODS, f"{node.name}: {public}"


@each_module
def test_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module docstring is missing"


@each_module
def test_name_is_a_concept(path: Path) -> None:
    assert path.stem not in BANNED_NAMES


@each_module
def test_environment_has_one_reader(path: Path) -> None:
    if str(path.relative_to(ROOT)) in READERS_OF_THE_ENVIRONMENT | WRITERS_OF_IT:
        return
    source = path.read_text()
    assert "os.environ" not in source and "getenv" not in source


def calls_of(module: str, tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """The functions of a module that are called by its name, `torch.empty(...)`, and how."""
    return [
        (node.func.attr, node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
    ]


def unnamed(tree: ast.AST) -> list[str]:
    """Tensors and arrays that are made without a dtype, or without a device, by line."""
    wanted = [(call, {"dtype", "device"}) for name, call in calls_of("torch", tree) if name in TENSORS]
    wanted += [(call, {"dtype"}) for name, call in calls_of("torch", tree) if name in ON_THE_CPU]
    wanted += [(call, {"dtype"}) for name, call in calls_of("np", tree) if name in ARRAYS]
    return [
        f"{call.lineno}: {ast.unparse(call)} lacks {lacking}"
        for call, names in wanted
        if (lacking := sorted(names - {keyword.arg for keyword in call.keywords}))
    ]


@each_module_of_inference
def test_tensors_name_their_dtype_and_device(path: Path) -> None:
    assert unnamed(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "lacking"),
    [
        ("torch.empty(2, 3)", "['device', 'dtype']"),
        ("x = [torch.tensor([1.5], device=x.device)]", "['dtype']"),
        ("torch.arange(5, dtype=torch.int64)", "['device']"),
        ("torch.empty(room, **options)", "['device', 'dtype']"),
        ("np.zeros(5)", "['dtype']"),
    ],
)
def test_the_rule_for_tensors_sees_what_is_left_open(source: str, lacking: str) -> None:
    [found] = unnamed(ast.parse(source))
    assert found.endswith(f"lacks {lacking}")


@each_module_of_inference
def test_state_of_the_whole_process_is_left_alone(path: Path) -> None:
    if path.relative_to(ROOT).parts[1] == "benchmark":
        return  # a process of its own
    found = [name for name, _ in calls_of("torch", ast.parse(path.read_text())) if name in PROCESS_WIDE]
    assert found == []


def test_no_pickle_anywhere() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "joblib"}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, path


def test_no_test_bounds_the_time_that_something_takes() -> None:
    """Seconds depend on the machine and on who else uses it: tests/counting.py counts what a thing costs."""
    clocks = {"process_time", "thread_time", "perf_counter", "process_time_ns", "thread_time_ns"}
    of_their_own = {"load", "reliability", "gpu"}  # where measuring is the purpose
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if of_their_own.isdisjoint(path.relative_to(ROOT / "tests").parts):
            called = {
                node.attr if isinstance(node, ast.Attribute) else node.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute | ast.Name)
            }
            assert not called & clocks, path
