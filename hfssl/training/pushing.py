"""What a run sends to the Hub: each checkpoint in the background as one commit, the model at the end."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from hfssl.errors import InputError
from hfssl.hub.problems import hub_problem
from hfssl.hub.push import send
from hfssl.hub.uploads import plan_push
from hfssl.training.checkpoint import LAST

logger = logging.getLogger(__name__)


class PushingTrainer(Trainer):
    """The part of `PretrainingTrainer` that pushes.

    transformers' own sends the output folder while the next steps write into it, without the code that the config's
    auto_map names, with a pickle of the arguments (the token among them), and says nothing if that fails.
    """

    _pushing: Path | None = None  # the checkpoint that is being sent

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository if it is not there; what forbids it is one line, before the training."""
        try:
            super().init_hf_repo(token, private)
        except Exception as error:  # the client's errors have no class of their own in common
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            raise InputError(f"cannot push to {name}: {hub_problem(error)}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Sends the model of a checkpoint, and with it the checkpoint if `hub_strategy` says so.

        While the push before it still runs this one is left out, unless `hub_always_push`, or a signal ends the run.
        """
        args, checkpoint = self.args, Path(checkpoint_folder)
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        busy = self._pushing is not None and not self.push_in_progress.is_done()
        if busy and not args.hub_always_push and self.stop.received is None:
            return
        self._finish_current_push()
        files = {name: checkpoint / name for name in self._model_files}
        record = Path(args.output_dir) / "run.json"
        if record.exists():  # a resume elsewhere asks for it
            files[record.name] = record
        folders = {HubStrategy.CHECKPOINT: LAST, HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        if folder := folders.get(args.hub_strategy):
            paths = [path for path in checkpoint.rglob("*") if path.is_file()]
            files |= {f"{folder}/{path.relative_to(checkpoint).as_posix()}": path for path in paths}
        api, step, repository = HfApi(token=args.hub_token), self.state.global_step, self.hub_model_id

        def push():
            operations = [CommitOperationAdd(name, path) for name, path in files.items()]
            message = f"Training in progress, step {step}"
            return api.create_commit(repository, operations, commit_message=message, revision=args.hub_revision)

        self._pushing = checkpoint
        self.push_in_progress = PushInProgress([api.run_as_future(push)])

    def _finish_current_push(self) -> None:
        """Waits for the push of a checkpoint, and says if it failed: the run goes on."""
        super()._finish_current_push()
        if self._pushing is None:
            return
        error = self.push_in_progress.jobs[0].exception()
        if error:
            logger.warning("the push of %s to %s failed: %s", self._pushing.name, self.hub_model_id, hub_problem(error))
        self._pushing = None

    def push_to_hub(self, *args, **kwargs) -> None:
        """Sends the trained model and what `run` wrote beside it, in one commit, as `hfssl push` does."""
        self._finish_current_push()
        if self.is_world_process_zero():
            args = self.args
            try:
                send(plan_push(args.output_dir, self.hub_model_id), token=args.hub_token, revision=args.hub_revision)
            except InputError as error:
                raise InputError(f"{error}; the model is in {args.output_dir}") from None
