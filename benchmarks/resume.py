"""The first step after a resume far into the data: hfssl's index arithmetic beside the stock Trainer's skipping.

    python benchmarks/resume.py --repeats 5 --out out/resume.json

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

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, default_data_collator

from hfssl.benchmarking import figure, interleave, numbered_blocks, print_table, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.training import PretrainingArguments, PretrainingTrainer

BATCH, GOAL, FAR = 8, 10**9, {"hfssl": 10**9, "stock, indexed": 4_000_000, "stock, streamed": 80_000}


@dataclass
class BenchmarkArguments:
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/resume.json", metadata={"help": "The JSON file to write."})


def first_step(arm, step, folder, found):
    """Trains one step after `step`, from a checkpoint unless that is 0; appends the seconds to its end to `found`."""
    data, clock = numbered_blocks((step + 2) * BATCH, streamed="streamed" in arm), TrainerCallback()
    clock.on_step_end = lambda *args, **kwargs: found.append(time.perf_counter() - began)
    args = PretrainingArguments(folder, max_steps=step + 1, save_strategy="no" if step else "steps", save_steps=1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=32, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0))
    kind = PretrainingTrainer if arm == "hfssl" else Trainer
    trainer = kind(model, args, train_dataset=data, data_collator=default_data_collator, callbacks=[clock])
    checkpoint = f"{folder}/{step}/checkpoint-{step}" if step else None
    if step:  # the checkpoint of the first step under another number
        shutil.copytree(f"{folder}/checkpoint-1", checkpoint, dirs_exist_ok=True)
        for name, changed in (("trainer_state", {"global_step": step}), ("position", {"samples": step * BATCH})):
            path = Path(checkpoint, f"{name}.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    with tempfile.TemporaryDirectory() as folder:
        first_step("hfssl", 0, folder, [])
        found = {(arm, step): [] for arm in FAR for step in (1, FAR[arm] // BATCH)}
        interleave({key: partial(first_step, *key, folder, found[key]) for key in found}, args.repeats)
    lines, rows = [], []
    for arm, far in FAR.items():
        near, there = found[arm, 1], found[arm, far // BATCH]
        skipped = spread([(b - a) / (far // BATCH - 1) for a, b in zip(near, there, strict=True)])
        row = {"arm": arm, "sample": far, "seconds": spread(there), "seconds a skipped batch": skipped}
        row["seconds at goal"] = row["seconds"]["median"] + (GOAL - far) / BATCH * skipped["median"]
        rows.append(row | {"extrapolated": far != GOAL})
        said = "measured" if far == GOAL else "EXTRAPOLATED"
        lines.append([arm, f"{far:,}", figure(row["seconds"]), f"{row['seconds at goal']:,.2f}, {said}"])
    print_table(["arm", "sample", "seconds", f"seconds at {GOAL:,}"], lines, "The first step after a resume")
    write_json(args.out, rows, goal_sample=GOAL, batch=BATCH)


if __name__ == "__main__":
    main()
