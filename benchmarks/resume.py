"""The first step after a resume far into the data: hfssl's index arithmetic beside the stock Trainer's skipping.

    python benchmarks/resume.py --repeats 5 --output out/resume.json

Seconds from `train(resume_from_checkpoint)` to the end of its first step, loading included; a tiny GPT, batches of 8.
hfssl goes to sample 10^9. Stock skips by index, or reads again what it has seen (streamed); that is measured at a small
position, and its time at 10^9 is EXTRAPOLATED from its seconds a skipped batch. Goal: hfssl under 1 s.
"""

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.data import IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, default_data_collator

from hfssl.benchmarking import figure, interleave, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.training import PretrainingArguments, PretrainingTrainer

BATCH, GOAL, FAR = 8, 10**9, {"hfssl": 10**9, "stock, indexed": 4_000_000, "stock, streamed": 80_000}


@dataclass
class BenchmarkArguments:
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    output: str = field(default="out/benchmarks/resume.json", metadata={"help": "The JSON file to write."})


class Blocks:
    """As many as wanted, made from their number: no data is faster to read."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return dict.fromkeys(("input_ids", "labels"), (index + np.arange(32)) % 256)


class StreamedBlocks(Blocks, IterableDataset):
    def __iter__(self):
        return map(self.__getitem__, range(self.size))


def first_step(arm, step, folder, found):
    """Trains one step after `step`, from a checkpoint unless that is 0; appends the seconds to its end to `found`."""
    data, clock = (StreamedBlocks if "streamed" in arm else Blocks)((step + 2) * BATCH), TrainerCallback()
    clock.on_step_end = lambda *args, **kwargs: found.append(time.perf_counter() - began)
    args = PretrainingArguments(folder, max_steps=step + 1, save_strategy="no" if step else "steps", save_steps=1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=32, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0))
    trainer = PretrainingTrainer if arm == "hfssl" else Trainer
    trainer = trainer(model, args, default_data_collator, train_dataset=data, callbacks=[clock])
    if step:  # the checkpoint of the first step under another number
        checkpoint = Path(shutil.copytree(f"{folder}/checkpoint-1", f"{folder}/{step}/checkpoint-{step}"))
        for name, changed in (("trainer_state", {"global_step": step}), ("position", {"samples": step * BATCH})):
            path = checkpoint / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if step else None)
    shutil.rmtree(f"{folder}/{step}", ignore_errors=True)


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    seconds = {(arm, step): [] for arm in FAR for step in (1, FAR[arm] // BATCH)}
    with tempfile.TemporaryDirectory() as folder:
        first_step("hfssl", 0, folder, [])
        calls = {key: partial(first_step, *key, folder, found) for key, found in seconds.items()}
        interleave(calls, args.repeats)
    table, rows = Table("arm", "sample", "seconds", "us a skipped batch", f"seconds at {GOAL:,}", title="Resume"), []
    for arm, far in FAR.items():
        near, there = seconds[arm, 1], seconds[arm, far // BATCH]
        skipped = spread([(b - a) / (far // BATCH - 1) for a, b in zip(near, there, strict=True)])
        at_goal = spread(there)["median"] + (GOAL - far) / BATCH * skipped["median"]
        row = {"arm": arm, "sample": far, "seconds": spread(there), "seconds at sample 8": spread(near)}
        row |= {"seconds a skipped batch": skipped, "seconds at goal": at_goal, "extrapolated": far != GOAL}
        rows.append(row)
        text = f"EXTRAPOLATED {at_goal:,.0f}" if row["extrapolated"] else f"measured {at_goal:.2f}"
        table.add_row(arm, f"{far:,}", figure(row["seconds"]), f"{skipped['median'] * 1e6:.3g}", text)
    Console().print(table)
    write_json(args.output, rows, goal_sample=GOAL, batch=BATCH)


if __name__ == "__main__":
    main()
