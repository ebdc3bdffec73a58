"""Beside the steps: a signal saves and stops; progress, samples and a run that learns nothing are shown."""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hfssl.errors import InputError
from hfssl.evaluation.language import unigram_loss
from hfssl.generation import continue_text, encode_prompt
from hfssl.progress import duration

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(Exception):
    """A signal came: training ends after the last step that is whole."""


class StopOnSignal(TrainerCallback):
    """SIGTERM, SIGINT and SIGUSR1 end the training after the micro-batch in hand; a second signal leaves at once.

    With several processes a signal to any of them stops all at the same place. Used as a context: the handlers stand
    inside it.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._group = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if self._group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # a CPU group: asking costs the accelerator no stop
            atexit.register(_leave_groups)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self._agreed():
            control.should_training_stop = True
            control.should_save = True
        return control

    def on_substep_end(self, args, state, control, **kwargs):
        self.check()

    def check(self) -> None:
        """Raises `Stopped` in all processes if any of them got a signal; all must call it."""
        if self._agreed():
            raise Stopped

    def most(self, value: int) -> int:
        """The largest value of all processes; all must call it."""
        if self._group is None:
            return value
        found = torch.tensor([value])
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._group)
        return int(found)

    def _note(self, number, frame):
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = number

    def _agreed(self) -> bool:
        self.received = self.most(self.received or 0) or None
        return self.received is not None


def _leave_groups() -> None:
    """Ends gloo's threads before the interpreter does: one that is alive then may abort the process (code 134)."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Progress(TrainerCallback):
    """A bar with the loss, the speed and the time that is left; without a terminal a plain line at each log.

    Written to standard error: standard output is for results.
    """

    def __init__(self):
        self._bar: tqdm | None = None
        self._from, self._began = 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._from, self._began = state.global_step, time.perf_counter()
        if state.is_world_process_zero and sys.stderr.isatty() and not args.disable_tqdm:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or not ("loss" in logs or "eval_loss" in logs):
            return
        parts = [f"{name} {logs[name]:.4g}" for name in ("loss", "eval_loss") if name in logs]
        parts += [
            f"{logs[f'{unit}_per_second']:,.0f} {unit}/s"
            for unit in ("tokens", "images", "words")
            if f"{unit}_per_second" in logs
        ]
        if "loss" in logs and "grad_norm" in logs:
            parts.append(f"gradient {logs['grad_norm']:.3g}")
        if "mfu" in logs:
            parts.append(f"{100 * logs['mfu']:.0f} % of the peak")
        if logs.get("data_wait", 0) >= 0.005:
            parts.append(f"{100 * logs['data_wait']:.0f} % waiting for data")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts))
            return
        done = state.global_step - self._from
        if "loss" in logs and done:
            left = (time.perf_counter() - self._began) / done * (state.max_steps - state.global_step)
            parts.append(f"{duration(left)} left")
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, ", ".join(parts))

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class UnigramDiagnosis(TrainerCallback):
    """Says so, once, when a language model has learned nothing but how frequent each token is.

    That is the first thing any of them learns; one whose loss stays at the entropy of the unigram is set up badly.
    """

    MARGIN = 0.1  # nats

    def __init__(self, blocks, after: int):
        """`blocks` is the training data, `after` the step from which the loss is looked at, or later in a warm-up."""
        self._blocks, self._after, self._looked = blocks, after, False

    def on_log(self, args, state, control, logs=None, model=None, processing_class=None, **kwargs):
        first = max(self._after, 2 * args.get_warmup_steps(state.max_steps))
        if self._looked or not state.is_world_process_zero or "loss" not in logs or state.global_step < first:
            return
        self._looked = True
        corpus = self._blocks.corpus
        counts = corpus.frequencies(model.config.vocab_size)
        entropy = unigram_loss(counts, counts)
        if logs["loss"] > entropy - self.MARGIN:
            batch, highest = args.global_batch, args.scaled_learning_rate
            logger.warning(
                "After %d steps the loss, %.3f, is still that of the unigram, %.3f: the model knows how frequent each "
                "token is and no more. The batch is %d blocks, %s tokens; the learning rate %.3g, at most %.3g; "
                "duplicate documents %.1f %%%s. A higher --learning_rate or a smaller batch with more steps may help.",
                state.global_step, logs["loss"], entropy, batch, f"{batch * self._blocks.block_size:,}",
                logs.get("learning_rate", highest), highest, 100 * corpus.duplicate_share(),
                "" if processing_class is None else f", lines {100 * duplicate_lines(corpus, processing_class):.1f} %",
            )  # fmt: skip


def duplicate_lines(corpus, tokenizer, limit: int = 2**20) -> float:
    """The share of the lines in a corpus' first `limit` tokens that say the same as an earlier one (no blank ones)."""
    end = tokenizer.decode(corpus.manifest["end_token_id"])  # a document's last line ends with it
    text = tokenizer.decode(corpus.read(0, min(limit, len(corpus))))
    lines = [line.strip() for line in text.replace(end, "\n").splitlines()]
    lines = [line for line in lines if line]
    return 1 - len(set(lines)) / max(1, len(lines))


class Samples(TrainerCallback):
    """Continues fixed prompts at each evaluation and every so many steps, with the same random numbers each time.

    The texts go to the log and, as {"step", "samples": {prompt: continuation}}, into log_history.json.
    """

    def __init__(self, model, tokenizer, prompts: list[str], every: int = 0):
        if not model.can_generate():
            raise InputError(f"--sample_prompts needs a model that continues text; {type(model).__name__} does not")
        for prompt in prompts:
            encode_prompt(model, tokenizer, prompt)
        self._tokenizer, self._prompts, self._every = tokenizer, prompts, every

    def on_step_end(self, args, state, control, **kwargs):
        if self._every and state.global_step % self._every == 0:
            self._write(args, state, **kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        self._write(args, state, **kwargs)

    def _write(self, args, state, model=None, **kwargs) -> None:
        texts = {
            prompt: continue_text(model, self._tokenizer, prompt, 1, max_new_tokens=40, seed=args.seed).best.text
            for prompt in self._prompts
        }
        if not state.is_world_process_zero:  # it took part all the same: where the weights are in parts all must
            return
        state.log_history.append({"step": state.global_step, "samples": texts})
        for prompt, text in texts.items():
            logger.info("step %d: %s|%s", state.global_step, prompt, text)
