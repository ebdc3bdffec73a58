"""What a run writes, in transformers' Trainer: checkpoints that are whole or not there, and the model at the end."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch.distributed as dist
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from hfssl.data.sampling import hash_key
from hfssl.errors import InputError
from hfssl.training.checkpoint import newest, publish, rotate, why_not_written
from hfssl.training.pushing import PushingTrainer

POSITION = "position.json"  # of a checkpoint: where in the data it was taken, and the losses not logged yet


class SavingTrainer(PushingTrainer):
    """The half of `PretrainingTrainer` that saves; that one has the order of the data, the signals and the clock.

    A checkpoint is written aside, verified by its hashes and renamed (`training/checkpoint.py`). If that fails, nothing
    of it stays and the last good one does. Weights that are not finite are never saved.
    """

    def _save_checkpoint(self, model, trial) -> None:
        """Writes a checkpoint aside and publishes it; if that fails, nothing of it stays and the last good one does."""
        self.store_flos()
        self._refuse_broken_weights()
        output_dir = Path(self.args.output_dir)
        final = output_dir / f"checkpoint-{self.state.global_step}"
        staging = output_dir / f".{final.name}"
        began = time.perf_counter()
        try:
            self._main_process_does(lambda: shutil.rmtree(staging, ignore_errors=True))
            self._write_checkpoint(staging, final)
            self._main_process_does(lambda: publish(staging, final))
        except Exception as error:
            # safetensors and torch wrap the system's error each in their own class, so the class says little here.
            shutil.rmtree(staging, ignore_errors=True)
            last = newest(output_dir)
            stays = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
            raise InputError(f"cannot save {final}: {why_not_written(error, output_dir)}; {stays}") from error
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self._main_process_does(
            lambda: rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint, self._pushing)
        )
        self._meter.pause(time.perf_counter() - began)

    def save_if_missing(self) -> None:
        """A checkpoint of the step in hand, if it has none."""
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.state.global_step and not self.stop.most(int(final.exists())):
            self._save_checkpoint(self.model, trial=None)

    def _write_checkpoint(self, staging: Path, final: Path) -> None:
        self.save_model(str(staging), _internal_call=True)
        if self.args.should_save:
            self._model_files = sorted(path.name for path in staging.iterdir())
        if self.state.best_global_step:
            best = final.with_name(f"checkpoint-{self.state.best_global_step}")
            if best == final or best.exists():
                self.state.best_model_checkpoint = str(best)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
        losses = [self._tr_loss.item()]
        if self.args.world_size > 1:
            losses = [None] * self.args.world_size
            dist.all_gather_object(losses, self._tr_loss.item())
        if self.args.should_save:
            position = {
                "samples": self._samples_before(self.state.global_step),
                "global_batch": self.args.global_batch,
                "last_logged": self._globalstep_last_logged,
                "losses": losses,
                "evaluate": self._evaluating,
            }
            (staging / POSITION).write_text(json.dumps(position))
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.save_to_json(str(staging / TRAINER_STATE_NAME))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """With another number of processes there is no random state for each: each gets a new one, told by the step."""
        if checkpoint is not None:
            position = json.loads((Path(checkpoint) / POSITION).read_text())
            if len(position["losses"]) != self.args.world_size:
                set_seed(int(hash_key(self.args.seed, self.state.global_step, self.args.process_index)) % 2**32)
                return
        super()._load_rng_state(checkpoint)

    def save_final(self) -> None:
        """Writes the trained model into the output folder, each file whole or not at all."""
        output_dir = Path(self.args.output_dir)
        staging = output_dir / ".final"
        self._refuse_broken_weights()
        self._main_process_does(lambda: shutil.rmtree(staging, ignore_errors=True))
        try:
            self.save_model(str(staging), _internal_call=True)
        except Exception as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise InputError(f"cannot save the model in {output_dir}: {why_not_written(error, output_dir)}") from error
        if self.args.should_save:
            for path in sorted(staging.iterdir()):
                path.replace(output_dir / path.name)
            staging.rmdir()
            (output_dir / "log_history.json").write_text(json.dumps(self.state.log_history, indent=1))
        self._barrier()

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle, which nothing reads; the settings stand in run.json
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)
            for weights in folder.glob("*.safetensors"):  # safetensors lets the owner alone read them
                shutil.copymode(folder / "config.json", weights)
            for name, content in self.files.items():
                (folder / name).write_text(content, encoding="utf-8")

    def _refuse_broken_weights(self) -> None:
        broken = not all(bool(weight.isfinite().all()) for weight in self.model.parameters())
        if self.stop.most(int(broken)):
            raise InputError(self._not_finite("a weight"))

    def _not_finite(self, what: str) -> str:
        last = newest(self.args.output_dir)
        stays = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        return (
            f"{what} is not finite at step {self.state.global_step}; {stays}; "
            f"a lower --learning_rate than {self.args.learning_rate:g} may help (--resume goes on with it)"
        )

    def _issue_warnings_after_load(self, load_result) -> None:
        """A tied weight is saved under one of its names: the others are not missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: `run` has written the card, which a push would otherwise overwrite with transformers' own."""

    def _main_process_does(self, action) -> None:
        """Runs `action` in the process that saves, between two barriers."""
        self._barrier()
        if self.args.should_save:
            action()
        self._barrier()

    def _barrier(self) -> None:
        if self.args.world_size > 1 and dist.is_initialized():
            dist.barrier()
