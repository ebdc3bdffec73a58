"""`run(trainer)`: what every recipe ends with. Resume, train, evaluate, save, push."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers.utils.logging import disable_progress_bar

import hfssl
from hfssl.errors import InputError
from hfssl.files import write_whole
from hfssl.hub import write_model_card
from hfssl.training.callbacks import Stopped
from hfssl.training.checkpoint import newest, resumable, weights_digest
from hfssl.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

RUN, RECIPE = "run.json", "recipe.yaml"
_NOT_OF_A_RECIPE = ("output_dir", "overwrite", "push_to_hub", "resume", "allow_data_change", "allow_partial_resume")


def run(trainer: PretrainingTrainer) -> dict[str, float]:
    """Trains from the newest good checkpoint of the output folder, evaluates, and saves the model there.

    The same command again goes on where the run was stopped, or says that it is done.

    Returns:
        The figures of the last evaluation (nats a token for text), empty without evaluation data.

    Raises:
        InputError: if the output folder holds another run, or anything that is not a run.
        SystemExit: with 128 + the signal's number, after a signal was answered with a checkpoint.
    """
    disable_progress_bar()  # of loading and saving files: a line each, between those of the training
    args = trainer.args
    output_dir = Path(args.output_dir)
    identity = describe(trainer)
    finished = _prepare(trainer, output_dir, identity)
    if finished is not None:
        logger.info("%s is finished already; give --overwrite to run it again", output_dir)
        if args.push_to_hub:
            trainer.push_to_hub()  # what is there, if the last push broke off
        return finished
    checkpoint = _from_main_process(trainer, lambda: resumable(output_dir, args.allow_partial_resume))
    if checkpoint:
        logger.info("Resuming from %s", checkpoint)
    with trainer.stop:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _leave_if_stopped(trainer)
        try:
            metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
        except Stopped:
            _leave_if_stopped(trainer)
    if "eval_loss" in metrics and not math.isfinite(metrics["eval_loss"]):
        logger.warning("The evaluation loss is not finite")
    record = identity | _facts(trainer) | {"finished": True, "metrics": metrics}
    try:
        trainer.save_final()
        if args.should_save:
            if args.given:
                write_whole(output_dir / RECIPE, _recipe(args))
            write_model_card(output_dir, record)
            write_whole(output_dir / RUN, json.dumps(record, indent=1))
    except OSError as error:
        raise InputError(
            f"cannot save the model in {output_dir}: {error.strerror or error}; "
            f"the last good checkpoint is {newest(output_dir)}"
        ) from error
    if args.should_save:
        _say_what_was_written(trainer, metrics)
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _leave_if_stopped(trainer) -> None:
    if trainer.stop.received is None:
        return
    trainer.save_if_missing()
    name, step = signal.Signals(trainer.stop.received).name, trainer.state.global_step
    saved = f"after step {step}; the checkpoint is in {trainer.args.output_dir}" if step else "before the first step"
    logger.info("Stopped by %s %s; the same command goes on from there", name, saved)
    raise SystemExit(128 + trainer.stop.received)


def describe(trainer: PretrainingTrainer) -> dict[str, Any]:
    """What makes a run this run: the model, the settings that decide the result, and the data."""
    model = json.loads(json.dumps(trainer.model.config.to_diff_dict(), default=str))
    for key in ("transformers_version", "auto_map", "architectures", "dtype"):
        model.pop(key, None)
    if hasattr(trainer.model, "begun_from"):
        model["begun_from"] = trainer.model.begun_from
    arguments = json.loads(json.dumps(trainer.run_settings(), default=str))
    if trainer.first_sample:
        arguments["first_sample"] = trainer.first_sample
    return {
        "model": model,
        "arguments": arguments,
        "collator": json.loads(json.dumps(getattr(trainer.data_collator, "identity", {}))),
        "data": str(getattr(trainer.train_dataset, "fingerprint", "")),
    }


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    """The first setting in which two descriptions differ, as `name: old, now new`."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found = difference(before, after, f"{key}.")
            if found:
                return found
        elif before != after:
            return f"{prefix}{key}: {before}, now {after}"
    return None


def _facts(trainer) -> dict[str, Any]:
    """What the card says besides: the data in words, the last samples, the repository if the model is pushed, a digest
    of the weights in memory, the seconds of training over all parts of the run, and the last part's hardware and
    versions.
    """
    args = trainer.args
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return {
        "dataset": str(getattr(trainer.train_dataset, "source", "")),
        "samples": next((each["samples"] for each in reversed(trainer.state.log_history) if "samples" in each), {}),
        "repository": trainer.hub_model_id if args.push_to_hub else None,
        # FSDP and DeepSpeed may hold a part of each weight.
        "weights": None if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else weights_digest(trainer.model),
        "seconds": round(trainer.seconds, 1),
        "hardware": f"{args.world_size} x {name}",
        "versions": {module.__name__: module.__version__ for module in (hfssl, torch, transformers)},
    }


def _recipe(args) -> str:
    """What was given to the program, as a YAML file for it; neither where the model goes nor a token."""
    left_out = {name for name in args.given if name in _NOT_OF_A_RECIPE or name.startswith("hub_")}
    kept = {name: value for name, value in args.given.items() if name not in left_out}
    return f"# --config of the program that made this model\n{yaml.safe_dump(kept, sort_keys=False)}"


def _prepare(trainer, output_dir: Path, identity: dict[str, Any]) -> dict[str, float] | None:
    """Refuses a folder that is not this run's; returns the figures of a run that is finished."""

    def look() -> dict[str, float] | None:
        try:
            if trainer.args.overwrite and output_dir.exists():
                _delete_run(output_dir)
            return _look(output_dir, identity, trainer.args)
        except OSError as error:
            raise InputError(f"cannot use the output folder {output_dir}: {error.strerror}") from None

    return _from_main_process(trainer, look)


def _look(output_dir: Path, identity: dict[str, Any], args) -> dict[str, float] | None:
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"the output folder {output_dir} is a file")
    if output_dir.exists() and any(output_dir.iterdir()):
        record = output_dir / RUN
        if not record.exists():
            raise InputError(f"{output_dir} is not empty and holds no run of hfssl; give another --output_dir")
        old = _read_run(output_dir)
        _refuse_another_run(output_dir, old, identity, args)
        if old.get("finished") and all(old.get(key) == value for key, value in identity.items()):
            return old.get("metrics", {})
    output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / RUN, json.dumps(identity | {"finished": False}, indent=1))
    return None


def _refuse_another_run(output_dir: Path, old: dict[str, Any], new: dict[str, Any], args) -> None:
    """Names the first difference and the flag that goes on all the same; another model is never gone on with."""
    flags = {"model": None, "data": "allow_data_change", "collator": "resume", "arguments": "resume"}
    for part, flag in flags.items():
        changed = difference({part: old.get(part)}, {part: new.get(part)})
        if changed and not (flag and getattr(args, flag)):
            go_on = f"--{flag} goes on with it all the same, " if flag else ""
            raise InputError(
                f"{output_dir} holds another run ({changed}); {go_on}--overwrite deletes it, "
                "or give another --output_dir"
            )


def _read_run(output_dir: Path) -> dict[str, Any]:
    try:
        old = json.loads((output_dir / RUN).read_text())
    except ValueError:
        old = None
    if not isinstance(old, dict) or not {"model", "arguments", "data"} <= old.keys():
        raise InputError(
            f"{output_dir / RUN} is damaged or not of hfssl; delete the folder or give another --output_dir"
        )
    return old


def _delete_run(output_dir: Path) -> None:
    """--overwrite deletes a run and nothing else: a folder without run.json is left to the user."""
    if not (output_dir / RUN).exists():
        return
    _read_run(output_dir)
    here = output_dir.resolve()
    if Path.cwd().is_relative_to(here) or Path.home().is_relative_to(here):
        raise InputError(f"--overwrite does not delete {output_dir}: the working or the home folder lies in it")
    shutil.rmtree(output_dir)


def _from_main_process(trainer, action: Callable[[], Any]) -> Any:
    """What `action` returns, or the InputError that it raises, in all processes; only the one that saves runs it."""
    result, error = None, None
    if trainer.args.should_save:
        try:
            result = action()
        except InputError as problem:
            error = str(problem)
    if trainer.args.world_size > 1:
        from accelerate.utils import broadcast_object_list

        result, error = broadcast_object_list([(result, error)])[0]
    if error:
        raise InputError(error)
    return result


def _say_what_was_written(trainer, metrics: dict[str, float]) -> None:
    """Says what was written and where, on standard error, where the logs go."""
    names = ("eval_loss", "eval_unigram_loss", "eval_perplexity", "eval_bits_per_byte", "eval_accuracy")
    figures = "".join(f", {name[5:].replace('_', ' ')} {metrics[name]:.4f}" for name in names if name in metrics)
    held_out = f"; on held-out data{figures[1:]}" if figures else ""
    logger.info("Trained %d steps%s; the model is in %s", trainer.state.global_step, held_out, trainer.args.output_dir)
