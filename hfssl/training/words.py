"""The CPU engine of word vectors: SGD on every word of a text, in compiled loops (`training/word_kernels.py`).

It makes the updates that `CBOWForPreTraining`'s gradients give on the samples of a block of targets (tests bind the
two), with the tools' schedule: word after word in the order of the text, a learning rate that falls linearly to 0.

The text is divided into chunks of whole sentences. All draws of a chunk follow from the seed, the pass and its number,
so a position in training is a number. One thread goes on from a checkpoint to the bit; several share the weights
without locks, so they go on at the position.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerState

from hfssl.data.sampling import hash_key
from hfssl.data.word_corpus import LONGEST_SENTENCE, WordCorpus
from hfssl.errors import InputError, nearest
from hfssl.evaluation.vector_files import WordVectors, write_vectors
from hfssl.sentence_module import save_sentence_module
from hfssl.tokenization import word_tokenizer
from hfssl.training import word_kernels as kernels
from hfssl.training.checkpoint import POSITION_ONLY
from hfssl.training.throughput import Meter
from hfssl.training.trainer import PretrainingTrainer
from hfssl.training.word_arrays import (
    Scratch,
    gather_rows,
    read_weights,
    scratch_for,
    settings_of,
    tables_of,
    weights_of,
    write_weights,
)

logger = logging.getLogger(__name__)

ENGINES = ("auto", "cpu", "trainer")
SETTINGS = ("learning_rate", "num_train_epochs", "max_steps", "seed")  # the training arguments that the engine heeds
RATE = 0.05  # the engine's, where none is given: fastText's
CHUNK = 10_000  # words that a thread takes at once; the learning rate falls from one to the next


@dataclass
class WordArguments:
    """What word vectors are trained with, besides the model's own options and the training arguments."""

    engine: str = field(
        default="auto",
        metadata={
            "help": "cpu: compiled loops, one process; trainer: batches, on GPUs and several processes; auto: cpu "
            "where there is one process and no GPU."
        },
    )
    negatives: int = field(default=5, metadata={"help": "Words drawn at random for each target."})
    noise_exponent: float = field(
        default=0.75, metadata={"help": "They are drawn by count to this power (word2vec 0.75, fastText 0.5)."}
    )
    subsample: float = field(
        default=1e-3,
        metadata={"help": "t: a word of frequency f stays with probability sqrt(t/f) + t/f; 0 keeps all."},
    )
    threads: int = field(default=0, metadata={"help": "Of the cpu engine; 0: one a core."})
    target_block: int = field(
        default=32,
        metadata={"help": "Targets whose contexts the cpu engine reads before it updates these; the tools have 1."},
    )
    words_per_step: int = field(
        default=500_000, metadata={"help": "Words of the text in a step of the cpu engine, as it is logged and saved."}
    )

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise InputError(
                f"--engine {self.engine} is not known: one of {', '.join(ENGINES)}{nearest(self.engine, ENGINES)}"
            )
        for name, least in {"negatives": 1, "threads": 0, "target_block": 1, "words_per_step": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("noise_exponent", "subsample"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number of at least 0, not {getattr(self, name)}")

    def uses_trainer(self, args) -> bool:
        """Whether the Trainer's batches train the model, on this machine with these processes.

        Raises:
            InputError: the cpu engine was asked for, with several processes.
        """
        if self.engine == "cpu" and args.world_size > 1:
            raise InputError(f"--engine cpu is one process, not {args.world_size}; --threads N uses the cores")
        return self.engine == "trainer" or (
            self.engine == "auto" and (args.world_size > 1 or args.device.type != "cpu")
        )

    @property
    def identity(self) -> dict:
        """The settings that decide the result."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}


class WordEngine:
    """Trains copies of a model's arrays; `write_model` puts them into the model.

    Args:
        corpus: whose words the model's rows are.
        model: `CBOWForPreTraining` in float32 on the CPU, its words set.
        arguments: `WordArguments`.
        seed: of the draws.

    Raises:
        InputError: the text has no more words than the window, or the model has other words; a number in the text is
            none of a word, or a sentence is longer than `LONGEST_SENTENCE`: compiled loops check no bounds.
    """

    def __init__(self, corpus: WordCorpus, model, arguments: WordArguments, seed: int = 0):
        config = model.config
        corpus.check_window(config.window)
        if config.vocab_size != len(corpus.words):
            raise InputError(f"the model has {config.vocab_size} words, the text {len(corpus.words)}")
        if corpus.ids.min() < 0 or corpus.ids.max() >= len(corpus.words):
            raise InputError(f"{corpus.name} is damaged: its numbers are not those of {len(corpus.words)} words")
        if (longest := np.diff(corpus.ends).max()) > LONGEST_SENTENCE:
            raise InputError(f"{corpus.name} has a sentence of {longest} words: more than {LONGEST_SENTENCE}")
        self.corpus, self.seed = corpus, seed
        self.threads = arguments.threads or _cores()
        self.tables, self._used = gather_rows(tables_of(corpus, model, arguments), corpus.counts)
        self._model, self.weights = model, weights_of(model, self._used)
        self.settings = settings_of(config, arguments)
        self._scratch = [scratch_for(self.settings, self.weights) for _ in range(self.threads)]
        self._ends = np.asarray(corpus.ends).astype(np.uint64)
        self._ids = np.asarray(corpus.ids).view(np.uint32)
        starts = np.searchsorted(corpus.ends[:-1], np.arange(0, len(corpus), CHUNK))
        self._bounds = np.append(np.unique(starts), len(corpus.ends) - 1)  # sentences
        self._compile()

    def read_model(self) -> None:
        """Goes on from the model's arrays, which were changed from outside."""
        read_weights(self.weights, self._model, self._used)

    def write_model(self) -> None:
        """Puts what is trained into the model's arrays."""
        write_weights(self.weights, self._model, self._used)

    @property
    def chunks(self) -> int:
        """In one pass over the text."""
        return len(self._bounds) - 1

    def words_before(self, chunk: int) -> int:
        """Words of the text before a chunk, passes counted on."""
        turn, chunk = divmod(chunk, self.chunks)
        return turn * len(self.corpus) + int(self._ends[self._bounds[chunk]])

    def train(self, first: int, last: int, rate: Callable[[int], float]) -> float | None:
        """Trains on the chunks first to last, which are counted on from pass to pass.

        Args:
            rate: from a chunk to its learning rate.

        Returns:
            The loss of the first chunk, nats a sample; None if it had none.
        """
        chunks = iter(range(first, last))  # which threads take from in turn: `next` holds Python's lock

        def work(scratch: Scratch) -> float | None:
            found = None
            for chunk in chunks:
                loss, samples = self._train_chunk(chunk, rate(chunk), scratch, measure=chunk == first)
                if chunk == first and samples:
                    found = loss / samples
            return found

        if self.threads == 1:
            return work(self._scratch[0])
        with ThreadPoolExecutor(self.threads) as pool:
            return next((loss for loss in pool.map(work, self._scratch) if loss is not None), None)

    def _train_chunk(self, chunk: int, rate: float, scratch: Scratch, measure: bool) -> tuple[float, int]:
        turn, place = divmod(chunk, self.chunks)
        return kernels.train_sentences(
            self._ids, self._ends, np.uint64(self._bounds[place]), np.uint64(self._bounds[place + 1]),
            np.float32(rate), self.weights, self.tables, self.settings, scratch, hash_key(self.seed, turn, place),
            measure,
        )  # fmt: skip

    def _compile(self) -> None:
        """Compiles the loops, or loads them from numba's cache, by training on no sentence."""
        none = np.uint64(0)
        kernels.train_sentences(
            self._ids, self._ends, none, none, np.float32(0), self.weights, self.tables, self.settings,
            self._scratch[0], none, False,
        )  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_words(
    corpus: WordCorpus, model, arguments: WordArguments, epochs: float = 5, learning_rate: float = 0.05, seed: int = 0
) -> None:
    """Trains a model's arrays in place, from beginning to end, without a folder.

    Args:
        corpus, model, arguments, seed: as of `WordEngine`.
        epochs: passes over the text.
        learning_rate: of the first word; it falls linearly to 0.
    """
    engine = WordEngine(corpus, model, arguments, seed)
    last = math.ceil(epochs * engine.chunks)
    engine.train(0, last, falling(engine, last, learning_rate))
    engine.write_model()


def falling(engine: WordEngine, last: int, learning_rate: float) -> Callable[[int], float]:
    """A learning rate that falls linearly with the words seen, to 0 before chunk `last`."""
    total = engine.words_before(last)
    return lambda chunk: learning_rate * (1 - engine.words_before(chunk) / total)


class VectorTrainer(PretrainingTrainer):
    """A `PretrainingTrainer` of word vectors: the model gets its words' counts, the words lie
    beside the weights, and vectors.vec and a module for sentence-transformers beside the trained ones.

    Args:
        corpus: whose words the model's rows are.
        pieces: the tokenizer that cuts words, with subwords "bpe".
        tokenized: the words of the corpus are what white space parts.
        Others: as of `PretrainingTrainer`. The words are no `processing_class`, whose padding would go to the config.

    Raises:
        InputError: a word is none that a tokenizer can have.
    """

    def __init__(self, *args, corpus: WordCorpus, pieces=None, tokenized: bool = False, **kwargs):
        self.corpus, self.pieces, self.tokenized = corpus, pieces, tokenized
        self._tokenizer = word_tokenizer(corpus.words)
        super().__init__(*args, **kwargs)
        self.model.cbow.counts.copy_(torch.from_numpy(corpus.counts))

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        self._tokenizer.save_pretrained(folder)
        if self.pieces is not None:
            self.pieces.backend_tokenizer.save(str(folder / "pieces.json"))

    def save_final(self) -> None:
        super().save_final()
        if self.args.should_save:
            folder, words, vectors = Path(self.args.output_dir), self.corpus.words, self.model.word_vectors().cpu()
            write_vectors(WordVectors(words, vectors.numpy(), self.corpus.counts), folder / "vectors.vec")
            save_sentence_module(folder, words, vectors, self.tokenized)


class EngineTrainer(VectorTrainer):
    """Trains with a `WordEngine` and else does what the other trainers do: checkpoints, signals, log, push.

    A step is `words_per_step` words of the text. Of the training arguments that decide a result only `SETTINGS` mean
    anything here.
    """

    def __init__(self, model, args, corpus: WordCorpus, words: WordArguments, **kwargs):
        super().__init__(model=model, args=args, corpus=corpus, **kwargs)
        self.train_dataset = corpus  # for the record; nothing is loaded from it
        self.engine = WordEngine(corpus, model, words, args.seed)
        self._chunks_per_step = max(1, round(words.words_per_step * self.engine.chunks / len(corpus)))
        self._done = 0  # chunks

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Trains from the checkpoint or the beginning; a signal ends it after a step, with a checkpoint."""
        args, engine = self.args, self.engine
        last = math.ceil(args.num_train_epochs * engine.chunks)
        if args.max_steps > 0:
            last = args.max_steps * self._chunks_per_step
        rate = falling(engine, last, args.learning_rate)
        if resume_from_checkpoint:
            self._go_back_to(Path(resume_from_checkpoint))
        self._prepare_state(last)
        self._meter = Meter()
        self._began = self._meter.start() - self.seconds
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        while self._done < last:
            stop = min(last, self._done + self._chunks_per_step)
            self.control = self.callback_handler.on_step_begin(args, self.state, self.control)
            loss = engine.train(self._done, stop, rate)
            self._meter.count("words", engine.words_before(stop) - engine.words_before(self._done))
            turns = stop // engine.chunks - self._done // engine.chunks
            self._done = stop
            self.state.global_step += 1
            self.state.epoch = stop / engine.chunks
            self.control = self.callback_handler.on_step_end(args, self.state, self.control)
            if turns:
                self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
            if self.control.should_log and loss is not None:
                self.log({"loss": loss, "learning_rate": rate(stop - 1)})
            if self.control.should_save:
                self._save_checkpoint(self.model, trial=None)
            if self.control.should_training_stop:
                break
        engine.write_model()
        self.control = self.callback_handler.on_train_end(args, self.state, self.control)

    def run_settings(self) -> dict:
        return {name: value for name, value in super().run_settings().items() if name in SETTINGS}

    def _prepare_state(self, chunks: int) -> None:
        steps = math.ceil(chunks / self._chunks_per_step)
        self.state.max_steps, self.state.num_train_epochs = steps, math.ceil(chunks / self.engine.chunks)
        self.state.compute_steps(self.args, steps)
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.control.should_training_stop = False

    def _go_back_to(self, checkpoint: Path) -> None:
        self._load_from_checkpoint(str(checkpoint))
        self.engine.read_model()
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._done = json.loads((checkpoint / POSITION_ONLY).read_text())["chunks"]

    def _save(self, output_dir=None, state_dict=None) -> None:
        self.engine.write_model()
        super()._save(output_dir, state_dict)

    def _write_checkpoint(self, staging: Path, final: Path) -> None:
        self.save_model(str(staging), _internal_call=True)
        self._model_files = sorted(path.name for path in staging.iterdir())
        (staging / POSITION_ONLY).write_text(json.dumps({"chunks": self._done, "seed": self.args.seed}))
        for callback in itertools.chain(self.callback_handler.callbacks, [self.control]):
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(staging / TRAINER_STATE_NAME))
