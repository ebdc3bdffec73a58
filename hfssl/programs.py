"""Where the program files are: beside the package in a checkout, inside it (`_programs/`) in an installed wheel."""

from __future__ import annotations

import ast
from pathlib import Path

from hfssl.errors import InputError, nearest

_PACKAGE = Path(__file__).resolve().parent
_PREFIX = "pretrain_"


def programs_root() -> Path:
    """The folder that holds recipes/, tokenizers_train/ and eval/."""
    carried = _PACKAGE / "_programs"
    return carried if carried.is_dir() else _PACKAGE.parent


def program(path: str) -> Path:
    """A program by its path in the repository, such as `eval/run_probe.py`."""
    return programs_root() / path


def recipes() -> dict[str, Path]:
    """The pretraining recipes by name: `gpt` is recipes/pretrain_gpt.py."""
    found = sorted((programs_root() / "recipes").glob(f"{_PREFIX}*.py"))
    return {path.stem.removeprefix(_PREFIX): path for path in found}


def evaluations() -> dict[str, Path]:
    """The programs that say what a model learned, by name: `probe` is eval/run_probe.py."""
    return {path.stem.removeprefix("run_"): path for path in sorted((programs_root() / "eval").glob("run_*.py"))}


def studies() -> list[Path]:
    """The programs that train many models and compare them, such as eval/compare_objectives.py."""
    folder = programs_root() / "eval"
    return sorted([*folder.glob("compare_*.py"), *folder.glob("verify_*.py")])


def summary(path: Path) -> str:
    """The first line of a program's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def recipe(name: str) -> Path:
    """A recipe by name, or any script by its path."""
    known = recipes()
    if name in known:
        return known[name]
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    raise InputError(f"unknown recipe {name!r}: one of {', '.join(known)}{nearest(name, known)}")


def recipe_configs() -> list[Path]:
    """All YAML files of recipes, without accelerate's."""
    folder = programs_root() / "recipes"
    return sorted(path for path in folder.rglob("*.yaml") if "accelerate_configs" not in path.parts)
