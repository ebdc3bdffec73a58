"""What a benchmark needs: arms that take turns, medians, peak memory, and JSON that says where it was measured."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hfssl.errors import InputError
from hfssl.files import write_whole

__all__ = [
    "compare",
    "disk_bytes",
    "environment",
    "figure",
    "held_memory",
    "interleave",
    "map_and_group",
    "median",
    "numbered_blocks",
    "numbered_tokenizer",
    "peak_rss",
    "print_table",
    "repeated",
    "run_arm",
    "run_arms",
    "show",
    "spread",
    "step_seconds",
    "stock_trainer",
    "token_blocks",
    "write_json",
]

_PACKAGES = ("hfssl", "torch", "torchvision", "timm", "transformers", "tokenizers", "datasets", "accelerate", "numpy")


def interleave(arms: dict[str, Callable[[], Any]], repeats: int, warmup: int = 0) -> dict[str, list[float]]:
    """Times each arm `repeats` times, in turns: a load that comes and goes meets all of them.

    Every other round runs backwards, so that no arm is always the one after a certain other.

    Args:
        arms: what to call, by name.
        repeats: rounds that count.
        warmup: rounds before those, which do not.

    Returns:
        For each arm its seconds, in the order of the rounds.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(-warmup, repeats):
        for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
            began = time.perf_counter()
            arms[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_rss(children: bool = False) -> int:
    """The most memory, in bytes, that this process has held so far, or the largest of its finished child processes."""
    status = Path("/proc/self/status")
    if not children and status.exists():
        # getrusage would count what the parent held when it started this process.
        high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if high_water:
            return int(high_water.group(1)) * 1024
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # kibibytes everywhere but on macOS


def run_arm(
    arguments: Sequence[str | Path | float], limit: float | None = None, watch_memory: bool = False
) -> dict[str, Any]:
    """Runs `python ARGUMENTS`, one arm in a process of its own, and reads the JSON object on its last line.

    Args:
        arguments: a program and its flags.
        limit: seconds after which the arm is ended, with all processes it started.
        watch_memory: look ten times a second at what the arm and its processes hold. That slows down an arm that
            allocates much, so where one process is all there is, the arm had better report its `peak_rss`.

    Returns:
        The object, and with `watch_memory` the peak of `held_memory` as "memory MB".

    Raises:
        RuntimeError: one line; the arm failed, printed no result, or ran past the limit.
    """
    began, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command, offline = [sys.executable, *map(str, arguments)], {"HF_HUB_OFFLINE": "1", **os.environ}
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True, env=offline)
        try:
            while process.poll() is None:
                if limit is not None and time.perf_counter() - began > limit:
                    raise RuntimeError(f"ended after {limit:.0f} s")
                if watch_memory:
                    most = max(most, held_memory(process.pid))
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what the arm left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        errors.seek(0)
        printed, said = out.read().splitlines(), errors.read().split("\n")
    if process.returncode or not printed:
        last = next((line.strip() for line in reversed(said) if line.strip()), "nothing on standard error")
        raise RuntimeError(f"exit code {process.returncode}: {last[:300]}")
    return json.loads(printed[-1]) | ({"memory MB": most / 1e6} if watch_memory else {})


def run_arms(
    arms: dict[str, Sequence[str | Path | float]], repeats: int, watch_memory: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """`run_arm` on each arm, in turns; for each arm its results."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}

    def call(name: str) -> None:
        found[name].append(run_arm(arms[name], watch_memory=watch_memory))

    interleave({name: functools.partial(call, name) for name in arms}, repeats)
    return found


def held_memory(session: int) -> int:
    """The memory, in bytes, that the processes of a session hold now; 0 off Linux.

    Pages that several processes share count once. Pages of files (libraries, memory maps) do not count: the system
    drops them when it needs room.
    """
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[3]) != session:
                continue
            sizes = re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", stat.with_name("smaps_rollup").read_text(), re.M)
        except (OSError, IndexError):  # it ended in the meantime, or is not ours
            continue
        total += sum(map(int, sizes)) * 1024
    return total


def compare(results: dict[str, list[dict[str, Any]]], measures: Sequence[str], what: str = "") -> list[dict[str, Any]]:
    """For each measure the medians of two arms, with their range, and the first arm's ratio to the second's.

    Args:
        results: for each of two arms its runs, as of `run_arms`.
        measures: keys of a run that are numbers.
        what: put before each measure's name.

    Returns:
        Rows {"measure", "arms": {arm: {"median", "min", "max", "values"}}, "ratio"}.
    """
    rows = []
    for measure in measures:
        arms = {arm: spread([run[measure] for run in runs]) for arm, runs in results.items()}
        first, second = (arm["median"] for arm in arms.values())
        rows.append({"measure": f"{what}{measure}", "arms": arms, "ratio": first / second})
    return rows


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The "median", "min" and "max" of numbers, and the "values" themselves."""
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


def show(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Prints the rows of `compare` as a table: median (min–max) of each arm, and the ratio."""
    lines = [[row["measure"], *map(figure, row["arms"].values()), f"{row['ratio']:.3g}"] for row in rows]
    print_table(["", *rows[0]["arms"], "ratio"], lines, title)


def print_table(headings: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> None:
    """Prints lines of text cells under their headings; a short line is filled up with empty cells."""
    table = Table(*headings, title=title)
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def figure(found: dict[str, Any]) -> str:
    """A `spread` as text: median (min–max), three digits or all before the point."""
    middle, low, high = (
        f"{found[key]:,.0f}" if abs(found[key]) >= 100 else f"{found[key]:.3g}" for key in ("median", "min", "max")
    )
    return f"{middle} ({low}–{high})"


def disk_bytes(folder: str | Path) -> int:
    """What the files of a folder hold, in bytes."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def repeated(documents: Sequence[str], characters: float, seed: int = 0) -> Iterator[str]:
    """The documents again and again, each time with a tenth of the words exchanged, until there are `characters`."""
    generator = np.random.default_rng(seed)
    words = np.array(sorted({word for text in documents for word in text.split()}), dtype=object)
    made = 0
    for text in itertools.cycle(documents):
        if made >= characters:
            return
        pieces = np.array(text.split(" "), dtype=object)
        exchanged = generator.random(len(pieces)) < 0.1
        pieces[exchanged] = generator.choice(words, exchanged.sum())
        text = " ".join(pieces)
        made += len(text)
        yield text


def map_and_group(path: str | Path, tokenizer, folder: str | Path, block_size: int, processes: int = 2):
    """What transformers' run_clm makes of a .jsonl file: each document tokenised by `map`, then all cut into blocks.

    It puts the end-of-text token after each document, so that the tokens are those of a `Corpus`. As in run_clm each
    thousand documents lose the tail that fills no block.

    Args:
        folder: where `datasets` keeps what it writes.

    Returns:
        The blocks ("input_ids", "attention_mask", "labels"), an iterator over all tokens in order, in arrays, and the
        bytes of the copy that `datasets` makes of the text.
    """
    from datasets import load_dataset

    text = load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    copied = disk_bytes(folder)

    def tokenise(batch):
        found = tokenizer(batch["text"])
        for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True):
            ids.append(tokenizer.eos_token_id)
            mask.append(1)
        return found

    def group(batch):
        joined = {name: list(itertools.chain.from_iterable(rows)) for name, rows in batch.items()}
        whole = len(joined["input_ids"]) // block_size * block_size
        starts = range(0, whole, block_size)
        blocks = {name: [row[first : first + block_size] for first in starts] for name, row in joined.items()}
        return {**blocks, "labels": blocks["input_ids"].copy()}

    tokens = text.map(tokenise, batched=True, num_proc=processes, remove_columns=text.column_names)
    blocks = tokens.map(group, batched=True, num_proc=processes)
    return blocks, (chunk.flatten().to_numpy() for chunk in tokens.data.column("input_ids").chunks), copied


def token_blocks(count: int, length: int, vocab_size: int, lowest: int = 0, seed: int = 0) -> np.ndarray:
    """Made-up text: token ids (count, length) int64 in [lowest, vocab_size) with Zipf's frequencies, 1 / rank."""
    ranks = np.exp(np.random.default_rng(seed).random((count, length)) * np.log(vocab_size - lowest))
    return lowest + ranks.astype(np.int64) - 1


def numbered_blocks(count: int, streamed: bool = False, length: int = 32, vocab_size: int = 256):
    """A dataset of any size that takes no memory and no time: a block, "input_ids" and "labels", is made of its number.

    Args:
        streamed: an IterableDataset, which can only be read from its beginning on.
    """
    from torch.utils.data import Dataset, IterableDataset

    class Blocks(IterableDataset if streamed else Dataset):
        def __len__(self):
            return count

        def __getitem__(self, index):
            return dict.fromkeys(("input_ids", "labels"), (index + np.arange(length)) % vocab_size)

        def __iter__(self):
            return map(self.__getitem__, range(count))

    return Blocks()


def numbered_tokenizer(vocab_size: int):
    """A tokenizer of made-up words whose first five are BERT's special tokens: for `token_blocks` from 5 on."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    words = [*special.values(), *(f"w{number}" for number in range(5, vocab_size))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def stock_trainer(config, blocks: np.ndarray, tokenizer, **arguments):
    """The stock model in transformers' Trainer, fed as run_clm feeds GPT-2 and run_mlm feeds BERT.

    Args:
        blocks: token ids (count, length).
        arguments: of TrainingArguments.
    """
    import transformers
    from datasets import Dataset

    masked = config.model_type == "bert"
    data = {"input_ids": blocks, "attention_mask": np.ones_like(blocks)}
    if masked:
        auto = transformers.AutoModelForMaskedLM
        collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    else:
        data["labels"] = blocks
        auto, collator = transformers.AutoModelForCausalLM, transformers.default_data_collator
    return transformers.Trainer(
        model=auto.from_config(config),
        args=transformers.TrainingArguments(**arguments),
        train_dataset=Dataset.from_dict(data),
        data_collator=collator,
    )


def step_seconds(trainer, warmup: int, every: int = 1) -> list[float]:
    """Trains; the seconds a step, from fetching its data to its update, over each `every` steps after the first few.

    A GPU is waited for only at the end of those, since the wait itself costs time.

    Args:
        warmup: steps that do not count, at least one.
    """
    import torch
    from transformers import TrainerCallback

    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step >= warmup and (state.global_step - warmup) % every == 0:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    return (np.diff(times) / every).tolist()


def environment() -> dict[str, Any]:
    """Commit, versions and processor: what a number is worth nothing without. Holds no name of a user or machine."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"commit": _commit(), "cpus": usable, "machine": platform.machine(), "versions": versions}


def _commit() -> str:
    """The commit of the source tree, with "+" if files differ from it; "unknown" outside a clone."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # installed into some other repository's folder
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: str | Path, rows: Sequence[dict[str, Any]], **about: Any) -> None:
    """Writes {"environment", **about, "rows"}; the file appears whole or not at all."""
    content = {"environment": environment(), **about, "rows": list(rows)}
    try:
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
