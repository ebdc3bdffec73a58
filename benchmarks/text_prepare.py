"""Text to training blocks: hfssl's corpus beside `datasets` map and group as in transformers' run_clm, two processes.

    python benchmarks/text_prepare.py --text_path books.jsonl --out out/prepare.json

From a .jsonl file to blocks; each arm is a new process, its clock starts after the imports; they take turns. The memory
is the peak of an arm and its processes, without pages of files; the disk all that it writes, of which run_clm's holds a
copy of the text. Goals: >= 2.5 times the tokens/s, <= 1/10 of the disk, <= 1/2 of the memory; always the same tokens.
"""

import hashlib
import importlib
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hfssl.benchmarking import compare, disk_bytes, map_and_group, repeated, run_arms, show, write_json
from hfssl.config import parse_config
from hfssl.data.blocks import Blocks
from hfssl.data.corpus import build_corpus
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import exits_on_bad_input
from hfssl.tokenization import load_tokenizer, train_bpe


@dataclass
class BenchmarkArguments:
    text_path: str = field(default="builtin:prose", metadata={"help": "Any text; a builtin one is repeated."})
    megabytes: float = field(default=20, metadata={"help": "To repeat builtin text to, a tenth of its words changed."})
    block_size: int = field(default=1024, metadata={"help": "Tokens in a block."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/text_prepare.json", metadata={"help": "The JSON file to write."})
    arm: list[str] | None = field(default=None, metadata={"help": "For the program itself: an arm and its folder."})


def run(arm, folder, block_size):
    """One arm; prints what it cost and a hash of the tokens."""
    tokenizer, path = load_tokenizer(str(folder / "tokenizer")), folder / "text.jsonl"
    if arm == "run_clm":
        importlib.import_module("datasets")  # before the clock starts
    with tempfile.TemporaryDirectory(dir=folder) as made:
        began, copied = time.perf_counter(), 0
        if arm == "run_clm":
            _, parts, copied = map_and_group(path, tokenizer, made, block_size)
        else:
            texts = load_texts(TextArguments(text_path=str(path), eval_fraction=0))
            corpus = Blocks(build_corpus(texts, tokenizer, f"{made}/c", tokenizer.eos_token_id), block_size).corpus
            parts = (corpus.read(first, first + 2**16) for first in range(0, len(corpus), 2**16))
        seconds, disk, digest, tokens = time.perf_counter() - began, disk_bytes(made), hashlib.sha256(), 0
        for ids in parts:  # some at a time: this must not be the peak of the memory
            digest.update(ids.astype(np.int64))
            tokens += len(ids)
    found = {"tokens/s": tokens / seconds, "tokens": tokens, "sha256": digest.hexdigest()}
    print(json.dumps(found | {"disk MB": disk / 1e6, "text's copy MB": copied / 1e6}))


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if args.arm:
        return run(args.arm[0], Path(args.arm[1]), args.block_size)
    texts = list(load_texts(TextArguments(text_path=args.text_path, eval_fraction=0)))
    with tempfile.TemporaryDirectory() as folder:
        train_bpe(texts, 8192, show_progress=False).save_pretrained(f"{folder}/tokenizer")
        many = repeated(texts, args.megabytes * 1e6) if args.text_path.startswith("builtin:") else texts
        Path(folder, "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in many))
        arms = {arm: [__file__, "--block_size", args.block_size, "--arm", arm, folder] for arm in ("hfssl", "run_clm")}
        results = run_arms(arms, args.repeats, watch_memory=True)
    rows = compare(results, ["tokens/s", "disk MB", "memory MB"])
    copied = results["run_clm"][0]["text's copy MB"]
    show(rows, f"Text to blocks of {args.block_size}; of run_clm's disk {copied:.0f} MB are the text")
    assert len({run["sha256"] for runs in results.values() for run in runs}) == 1, "the arms made different tokens"
    write_json(args.out, rows, text=args.text_path, block_size=args.block_size, runs=results)


if __name__ == "__main__":
    main()
