"""Configuration: dataclasses with help, YAML that holds values only, the command line over YAML.

A YAML file holds flat keys, the fields of the program's dataclasses, and one mapping `model:`, the fields of the
model's config class. Anything else is refused with the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser, PreTrainedConfig

from hfssl.errors import InputError, nearest
from hfssl.programs import programs_root

MODEL_FLAG = "--model."
# Fields every PreTrainedConfig has that describe the saved file and not the model: nothing a recipe may set.
NOT_A_MODEL_FIELD = {"transformers_version", "architectures", "auto_map", "model_type", "return_dict", "dtype"}


def parse_config(
    *dataclass_types: type,
    model: type[PreTrainedConfig] | dict[str, type[PreTrainedConfig]] | None = None,
    fixed: dict[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Reads `--config FILE.yaml` and the command line into dataclasses, and the `model:` mapping into a model config.

    Args:
        dataclass_types: the argument dataclasses; a field must not occur in two of them.
        model: the model's config class, or a mapping from the values of `model.architecture` to config classes, the
            first of which is the default. `--model.FIELD VALUE` on the command line wins over the file.
        fixed: model fields that the program sets itself, each with what to use instead.
        argv: the arguments, by default those of the process.

    Returns:
        The model config (if `model` is given), then one instance for each dataclass. An instance that has an attribute
        `given` gets there what the file and the command line set, as one mapping that is a YAML file for the program.

    Raises:
        InputError: on an unknown key or flag (with the nearest valid one), a value of the wrong type, or a bad file.
    """
    argv, model_flags = _split_model_flags(list(sys.argv[1:] if argv is None else argv), model is not None)
    argv, path = _take_config_flag(argv)
    values = read_yaml(path) if path else {}
    known = [field.name for kind in dataclass_types for field in dataclasses.fields(kind) if field.init]
    model_values = {}
    if model is not None or "model" not in known or isinstance(values.get("model"), dict):  # else it names a model
        model_values = values.pop("model", None) or {}
    if not isinstance(model_values, dict):
        raise InputError(f"{path}: 'model' must be a mapping of the model's fields")
    if model_values and model is None:
        raise InputError(f"{path}: this program takes no 'model' mapping")

    parser = _parser(dataclass_types)
    for key in values:
        if key not in known:
            hint = _model_hint(key, model) or nearest(key, [*known, "model"] if model else known)
            raise InputError(f"{path}: unknown key {key!r}{hint}")
    _set_nulls(parser, dataclass_types, [key for key, value in values.items() if value is None], path)
    flags = [*_as_flags(values), *argv]
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
        raise InputError(f"unknown argument {unknown[0]!r}{_model_hint(name, model) or nearest(name, known)}")
    model_values = model_values | model_flags
    instances = _build(dataclass_types, namespace)
    for instance in instances:
        if hasattr(instance, "given"):
            instance.given = _given(flags, namespace, values) | ({"model": model_values} if model_values else {})
    if model is None:
        return tuple(instances)
    return build_model_config(model, model_values, fixed or {}, path, typed=model_flags), *instances


def _model_hint(name: str, model) -> str:
    """The end of a message about a key or flag that is unknown, where it is a field of the model."""
    classes = model.values() if isinstance(model, dict) else [model] if model else []
    fields = {field.name for one in classes for field in dataclasses.fields(one) if field.init}
    return f"; it is of the model: {MODEL_FLAG}{name}" if name in fields - NOT_A_MODEL_FIELD else ""


def _given(flags: Sequence[str], namespace, values: dict[str, Any]) -> dict[str, Any]:
    """What the file and the command line set, as a YAML file would hold it."""
    named = [flag[2:].partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")]
    named = [*values, *named, *(name.removeprefix("no_") for name in named)]  # --no_NAME is NAME: false
    found = {name: getattr(namespace, name) for name in named if hasattr(namespace, name)}
    return {name: getattr(value, "value", value) for name, value in found.items()}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; InputError names the file and the line of a fault."""
    try:
        values = yaml.safe_load(_existing(Path(path)).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return values


def _existing(path: Path) -> Path:
    """A path such as recipes/gpt_small.yaml also names the file that came with an installed hfssl."""
    carried = programs_root() / path
    return carried if not path.exists() and not path.is_absolute() and carried.is_file() else path


def build_model_config(
    model: type[PreTrainedConfig] | dict[str, type[PreTrainedConfig]],
    values: dict[str, Any],
    fixed: dict[str, str],
    path: str | Path | None = None,
    typed: Collection[str] = (),
) -> PreTrainedConfig:
    """Builds a model config and refuses unknown fields: transformers accepts any keyword silently.

    Args:
        path: the file that the values are from, except those that were `typed`, for the messages.
    """
    where = f"{path}: " if path else ""
    values = dict(values)
    if isinstance(model, dict):
        architecture = values.pop("architecture", next(iter(model)))
        if architecture not in model:
            begins = "" if "architecture" in typed else where
            raise InputError(
                f"{begins}unknown model.architecture {architecture!r}: one of {', '.join(model)}"
                f"{nearest(architecture, model)}"
            )
        model = model[architecture]
    known = {field.name: field for field in dataclasses.fields(model) if field.init}
    for key in values:
        if key in fixed:
            raise InputError(f"{'' if key in typed else where}model.{key} is set by the program; use {fixed[key]}")
        if key not in known or key in NOT_A_MODEL_FIELD:
            culprit = f"unknown argument '--model.{key}'" if key in typed else f"{where}unknown key 'model.{key}'"
            raise InputError(f"{culprit} for {model.__name__}{nearest(key, known)}")
        values[key] = _as_number(values[key], known[key])
    try:
        return model(**values)
    except InputError:
        raise
    except Exception as error:
        if not _refuses(error):
            raise
        reason = " ".join(str(error).split())
        where = _flags_at_fault(model, values, typed, reason) or where
        raise InputError(f"{where}{model.__name__}: {reason}") from None


def _refuses(error: Exception) -> bool:
    """Whether a config class refuses its values so; transformers' do it by huggingface_hub's StrictDataclass errors."""
    return isinstance(error, (ValueError, TypeError)) or "StrictDataclass" in type(error).__name__


def _flags_at_fault(model: type[PreTrainedConfig], values: dict[str, Any], typed: Collection[str], reason: str) -> str:
    """The flags, as a message begins, if the values are none without them; those that it names, or else all."""
    given = [key for key in values if key in typed]
    try:
        model(**{key: value for key, value in values.items() if key not in given})
    except Exception:  # whatever it is, the file has it
        return ""
    flags = [f"{MODEL_FLAG}{key}" for key in given if key in reason] or [f"{MODEL_FLAG}{key}" for key in given]
    return f"{', '.join(flags)}: " if flags else ""


def build_model(make: Callable[[PreTrainedConfig], Any], config: PreTrainedConfig) -> Any:
    """`make(config)`; what the config class let pass and the model refuses becomes one line, too."""
    try:
        return make(config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the 'model' settings give no model: {reason}") from error


def _as_number(value: Any, field: dataclasses.Field) -> Any:
    """YAML 1.1 reads `3e-4` as a string: a string where the default is a float becomes the number it spells."""
    if isinstance(value, str) and isinstance(field.default, float):
        try:
            return float(value)
        except ValueError:
            raise InputError(f"model.{field.name} must be a number, not {value!r}") from None
    if isinstance(field.default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _parser(dataclass_types: Sequence[type]) -> HfArgumentParser:
    program = sys.modules.get("__main__")
    parser = HfArgumentParser(
        dataclass_types,
        description=getattr(program, "__doc__", None),
        allow_abbrev=False,
        epilog="--config FILE.yaml reads the same keys from a file; the command line wins. --model.FIELD VALUE too.",
    )

    def refuse(message: str):
        if message == "the following arguments are required: --model":
            message = "no model: hfssl VERB MODEL, or --model MODEL"
        raise InputError(message)

    parser.error = refuse
    return parser


def _build(dataclass_types: Sequence[type], namespace) -> list[Any]:
    instances = []
    for kind in dataclass_types:
        names = {field.name for field in dataclasses.fields(kind) if field.init}
        try:
            instances.append(kind(**{key: value for key, value in vars(namespace).items() if key in names}))
        except (ValueError, TypeError) as error:
            raise InputError(" ".join(str(error).split())) from None
    return instances


def _set_nulls(parser: HfArgumentParser, dataclass_types: Sequence[type], keys: Sequence[str], path) -> None:
    """`key: null` in a YAML file: no flag can say it, so it becomes the default; the command line still wins."""
    kinds = {name: kind for dataclass in dataclass_types for name, kind in get_type_hints(dataclass).items()}
    for key in keys:
        if type(None) not in get_args(kinds[key]):
            raise InputError(f"{path}: {key} must have a value, not null")
        parser.set_defaults(**{key: None})


def _as_flags(values: dict[str, Any]) -> list[str]:
    """Turns YAML values into the flags a user would have typed, so that both are checked in the same way."""
    flags = []
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            flags += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            flags.append(f"--{key}={json.dumps(value)}")
        else:
            flags.append(f"--{key}={value}")
    return flags


def _take_config_flag(argv: list[str]) -> tuple[list[str], str | None]:
    rest, path = [], None
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            path = next(arguments, None)
            if path is None:
                raise InputError("--config needs a YAML file")
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    return rest, path


def _split_model_flags(argv: list[str], allowed: bool) -> tuple[list[str], dict[str, Any]]:
    """Takes `--model.FIELD VALUE` and `--model.FIELD=VALUE` out of the arguments; values are read as YAML."""
    rest, values = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if not (allowed and argument.startswith(MODEL_FLAG)):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix(MODEL_FLAG).partition("=")
        if not equals:
            value = next(arguments, None)
            if value is None:
                raise InputError(f"{argument} needs a value")
        try:
            values[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{argument}: not valid YAML: {getattr(error, 'problem', error)}") from None
    return rest, values
