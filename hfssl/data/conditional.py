"""Data of a conditional language model: rows of pairs, a layout, and a tokenizer become what a recipe trains on."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from hfssl.data.builtin import hash_fraction
from hfssl.data.layout import LAYOUT, TASKS, Layout, PairEncoder
from hfssl.data.pair_files import Columns, Row, check_fields, grouped_pairs, has_split
from hfssl.data.pairs import PackedPairs, Pairs
from hfssl.errors import InputError, nearest
from hfssl.tokenization import load_tokenizer, train_bpe

__all__ = ["LAYOUT", "Layout", "PairArguments", "PairData", "encode_pairs", "layout_of", "load_pair_data"]

logger = logging.getLogger(__name__)

_ROWS = 2**13  # tokenised at once
# What is the same for every data set of a task; a program's arguments fill in the rest.
LAYOUTS = {
    "translation": Layout("translation"),
    # COMET: [event] [relation] [object] [end]. The spaces give each first word the token that it has amid a text.
    "commonsense": Layout(
        "commonsense", " {head}{relation}", " {tail}", "", {"relation": []}, replaced={" ___": "<blank>"}
    ),
    "dialogue": Layout("dialogue", "{context}", "{response}", turns=7),
    "pairs": Layout("pairs"),
}


@dataclass
class PairArguments:
    """Which pairs, how they are laid out, and how they become batches."""

    task: str = field(default="translation", metadata={"help": f"What the pairs are: {', '.join(TASKS)}."})
    pair_path: list[str] = field(
        default_factory=lambda: ["builtin:toypairs/translation"],
        metadata={
            "help": "Tables (.parquet, .jsonl, .csv, .tsv); a folder of them named by split; two text files, source "
            "and target; a Hub dataset id; builtin:toypairs/NAME."
        },
    )
    eval_pair_path: list[str] | None = field(
        default=None,
        metadata={"help": "Held-out pairs; by default the source's own validation part, or else a share of it."},
    )
    eval_fraction: float = field(
        default=0.02, metadata={"help": "The share of the sources that is held out, chosen by a hash of each."}
    )
    source_column: str = field(default="source", metadata={"help": "The column of the sources."})
    target_column: str = field(default="target", metadata={"help": "The column of the targets."})
    directions: list[str] | None = field(
        default=None,
        metadata={"help": "Several translations of one table, as en-de en-fr; the target's language is then a tag."},
    )
    source_template: str | None = field(
        default=None, metadata={"help": "The source in terms of the columns, as '{premise} {hypothesis}'."}
    )
    target_template: str | None = field(default=None, metadata={"help": "The target in terms of the columns."})
    separator: str | None = field(default=None, metadata={"help": "The special token between them; by default <sep>."})
    turns: int = field(default=7, metadata={"help": "Turns of a dialogue's context."})
    source_weight: float = field(
        default=0.0, metadata={"help": "Learn to predict the source, too, its tokens so weighted; 0: the target alone."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Tokens of a pair; longer dialogues lose old turns, other pairs are left out."}
    )
    bucket: int = field(
        default=512, metadata={"help": "Pairs of similar length that stand side by side in the order; 0: any order."}
    )
    packing: bool = field(
        default=False, metadata={"help": "Pack pairs into blocks of max_length, each seeing itself alone; no buckets."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "A folder or Hub id; without it one BPE is trained on both sides."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Entries of that BPE."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "A causal language model to begin with, by folder or Hub id; its tokenizer is taken, too."},
    )

    def __post_init__(self):
        if self.task not in TASKS:
            raise InputError(f"unknown --task {self.task!r}: one of {', '.join(TASKS)}{nearest(self.task, TASKS)}")
        if self.source_weight < 0 or self.bucket < 0 or self.turns < 1:
            raise InputError("--source_weight and --bucket must not be negative, and --turns be at least 1")
        if not 0 < self.eval_fraction < 1:
            raise InputError(f"--eval_fraction must lie between 0 and 1, not {self.eval_fraction:g}")
        if self.init_from and self.tokenizer:
            raise InputError("--init_from brings its own tokenizer: give it without --tokenizer")
        if (self.source_template is None) != (self.target_template is None):
            raise InputError("--source_template and --target_template belong together")

    def columns(self) -> Columns:
        """Which columns to read."""
        templates = [self.source_template or "", self.target_template or ""]
        others = tuple(name for template in templates for name in Layout.fields(template))
        return Columns(self.source_column, self.target_column, tuple(self.directions or ()), others)


@dataclass
class PairData:
    """What a conditional recipe trains on."""

    layout: Layout
    tokenizer: Any
    train: Pairs | PackedPairs
    eval: Pairs


def load_pair_data(args: PairArguments) -> PairData:
    """Rows, layout, tokenizer and tokenised pairs.

    Raises:
        InputError: the files are bad, nothing is left to train on or to hold out, or a held-out row has a tag that the
            training rows do not have (lists those).
    """
    train, held_out = _parts(args)
    layout = layout_of(args, train)
    name = args.init_from or args.tokenizer
    if name:
        tokenizer = load_tokenizer(name)
        layout.add_tokens(tokenizer)
    else:
        logger.info("No tokenizer given: training a BPE of %s entries on both sides", f"{args.vocab_size:,}")
        tokenizer = train_bpe(_texts(layout, train), args.vocab_size, special_tokens=layout.special_tokens)
    paths = " and ".join(args.pair_path)
    pairs = encode_pairs(train, layout, tokenizer, args.max_length, f"{paths} (train)")
    pairs = Pairs(pairs.tokens, pairs.ends, pairs.source_lengths, pairs.source, 0 if args.packing else args.bucket)
    held = encode_pairs(held_out, layout, tokenizer, args.max_length, f"{paths} (eval)").by_length()
    return PairData(layout, tokenizer, PackedPairs(pairs, args.max_length) if args.packing else pairs, held)


def _parts(args: PairArguments) -> tuple[list[Row], list[Row]]:
    """The rows to train on and the held-out ones; a statement of weight 0 is a false one and is in neither."""
    columns = args.columns()

    def true(path, split) -> Iterator[tuple[str, Row]]:
        return ((group, row) for group, row in grouped_pairs(path, split, columns) if row.get("weight") != 0)

    whole = list(true(args.pair_path, "train"))
    if args.eval_pair_path is not None or has_split(args.pair_path, "validation"):
        held_out = [row for _, row in true(args.eval_pair_path or args.pair_path, "validation")]
        train = [row for _, row in whole]
    else:
        held_out = [row for group, row in whole if hash_fraction(group) < args.eval_fraction]
        train = [row for group, row in whole if hash_fraction(group) >= args.eval_fraction]
    for rows, part in ((train, "to train on"), (held_out, "to hold out; give --eval_pair_path")):
        if not rows:
            names = Layout.fields(args.target_template or LAYOUTS[args.task].target)
            empty = sum(not any(row.get(name, "").strip() for name in names) for _, row in whole)
            told = f"{len(whole):,} pairs, {empty:,} with an empty target, and none" if empty else "no pairs"
            raise InputError(f"{' and '.join(args.pair_path)} has {told} {part}")
    return train, held_out


def layout_of(args: PairArguments, rows: list[Row]) -> Layout:
    """The layout of the arguments; what a tag may be is read from the rows.

    Raises:
        InputError: the rows are of another task.
    """
    layout = LAYOUTS[args.task]
    changes: dict[str, Any] = {"turns": args.turns} if args.task == "dialogue" else {}
    if args.source_template is not None:
        changes |= {"source": args.source_template, "target": args.target_template, "tags": {}}
        changes["separator"] = layout.separator or "<sep>"
    elif args.directions and len(args.directions) > 1:
        changes |= {"source": f"{{language}}{layout.source}", "tags": {"language": []}}
    if args.separator is not None:
        changes["separator"] = args.separator
    layout = dataclasses.replace(layout, **changes)
    needed = [*Layout.fields(layout.source), *Layout.fields(layout.target)]
    check_fields(rows, needed, f"--task {args.task}", " and ".join(args.pair_path))
    tags = {name: sorted({row[name].strip(" <>") for row in rows}) for name in layout.tags}
    return dataclasses.replace(layout, tags={name: [f"<{value}>" for value in found] for name, found in tags.items()})


def _texts(layout: Layout, rows: Iterable[Row]) -> Iterator[str]:
    """Each different text of both sides once."""
    seen = set()
    for row in rows:
        for text, special in (*layout.source_pieces(row), *layout.target_pieces(row)):
            if not special and text not in seen:
                seen.add(text)
                yield text


def encode_pairs(rows: Iterable[Row], layout: Layout, tokenizer, max_length: int, source: str = "memory") -> Pairs:
    """Tokenises pairs into flat arrays. Left out, counted and said: an empty target, and a pair over `max_length`.

    Raises:
        InputError: no pair is left, or a tag is unknown.
    """
    began, encoder, rows = time.perf_counter(), PairEncoder(layout, tokenizer, max_length), iter(rows)
    width, tokens, lengths, sources, empty, long = encoder.dtype.itemsize, bytearray(), [], [], 0, 0
    while chunk := list(islice(rows, _ROWS)):
        for start, end in encoder(chunk):
            if not end:
                empty += 1
            elif len(start) + len(end) > max_length * width:
                long += 1
            else:
                tokens += start
                tokens += end
                sources.append(len(start) // width)
                lengths.append((len(start) + len(end)) // width)
    count = len(lengths)
    if empty:
        logger.warning("%s: %s pairs left out, whose target is empty after tokenisation", source, f"{empty:,}")
    if long:
        logger.warning("%s: %s pairs left out, longer than %d tokens (--max_length)", source, f"{long:,}", max_length)
    if not count:
        raise InputError(f"{source} has no pair left: {empty:,} targets are empty, {long:,} pairs over --max_length")
    ends = np.cumsum(np.array(lengths, np.int64))
    targets = int(ends[-1]) - sum(sources)
    told = f"{source}: {count:,} pairs, {int(ends[-1]):,} tokens, {targets:,} of them to predict"
    logger.info("%s; %.1f s", told, time.perf_counter() - began)
    return Pairs(np.frombuffer(bytes(tokens), encoder.dtype), ends, np.array(sources, np.int32), told)
