"""The house's rules that a machine can check: floors, no cycles, what travels to the Hub, programs and their names."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hfssl"
PROGRAM_FOLDERS = ("recipes", "tokenizers_train", "eval", "benchmarks")
HUB_FLOOR_LIBRARIES = {"torch", "timm", "transformers"} | sys.stdlib_module_names

# A module imports only from a lower floor, or from its own part.
FLOORS = {
    "errors": -1,
    "files": -1,
    "remote_code": 0,
    "programs": 0,
    "progress": 0,
    "models": 0,
    "data": 1,
    "tokenization": 0,
    "sentence_module": 0,
    "config": 1,
    "information": 1,
    "benchmarking": 1,
    "benchmarking_vision": 6,
    "benchmarking_translation": 6,
    "benchmarking_words": 6,
    "environment": 1,
    "launch": 2,
    "generation": 2,
    "evaluation": 3,
    "pictures": 4,
    "export": 4,
    "hub": 4,
    "training": 5,
    "finetuning": 6,
    "studies": 7,
    "cli_generation": 7,
    "cli": 8,
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str | None:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if name == "__init__" else name


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module imported anywhere in a file, also inside functions, with its level of relativity."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_a_lower_floor_or_its_own_part(path):
    part = part_of(path)
    if part is None:
        return  # hfssl/__init__.py, checked below
    assert part in FLOORS, f"give {part} a floor"
    for name, level in imports(path):
        if level == 0 and name.split(".")[0] == "hfssl" and name != "hfssl":
            other = name.split(".")[1]
            assert other == part or FLOORS[other] < FLOORS[part], f"{path.name} imports {name} from a higher floor"


def test_the_package_itself_imports_nothing():
    assert imports(PACKAGE / "__init__.py") == []


def test_no_cycles_between_modules():
    def module_name(path):
        return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    def at_import(path):
        """Imports that run when the module is imported; those inside functions cannot make a cycle."""
        body = ast.parse(path.read_text()).body
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("hfssl"):
                yield node.module
            elif isinstance(node, ast.ImportFrom) and node.level == 1:
                yield f"{module_name(path.parent / '__init__.py')}.{node.module}"

    names = {module_name(path) for path in modules()}
    graph = {module_name(path): {name for name in at_import(path) if name in names} for path in modules()}
    done, active = set(), []

    def visit(name):
        assert name not in active, f"cycle: {' -> '.join([*active, name])}"
        if name not in done:
            active.append(name)
            for other in graph[name]:
                visit(other)
            active.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_models_are_flat_and_import_only_what_travels_to_the_hub():
    files = list((PACKAGE / "models").rglob("*.py"))
    assert all(path.parent == PACKAGE / "models" for path in files)
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                # Only `from .sibling import name` is copied by save_pretrained; `from . import x` is silently dropped.
                assert node.level == 1 and node.module, f"{path.name}: relative import that does not travel"
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in HUB_FLOOR_LIBRARIES, f"{path.name} imports {node.module}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.split(".")[0] in HUB_FLOOR_LIBRARIES, f"{path.name} imports {alias.name}"


def programs():
    return sorted(path for folder in PROGRAM_FOLDERS for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", programs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_is_short_and_says_how_it_is_run(path):
    assert len(path.read_text().splitlines()) <= 80
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert path.name in docstring, "the docstring must show the command"


def test_programs_are_no_packages_and_nobody_imports_them():
    for folder in PROGRAM_FOLDERS:
        assert not (ROOT / folder / "__init__.py").exists()
    names = {path.stem for path in programs()}
    for path in [*modules(), *programs()]:
        for name, _ in imports(path):
            assert name.split(".")[0] not in names | set(PROGRAM_FOLDERS), f"{path} imports the program {name}"


def test_no_program_shadows_a_library():
    """A script's folder is sys.path[0]: eval/datasets.py would be `import datasets` for every script beside it."""
    libraries = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    for path in programs():
        assert path.stem not in libraries, f"{path.name} shadows a library"


def test_programs_import_public_names_only():
    for path in programs():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hfssl"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.name} imports {private}"
