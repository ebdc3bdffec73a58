"""A dialogue model: how likely it finds what people said, and what it says by each way of decoding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.benchmarking import write_json
from hfssl.data.pair_files import read_pairs
from hfssl.errors import InputError
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.conditional import Row, load_conditional, perplexity, some, target_scores
from hfssl.evaluation.dialogue import conversations, draw_candidates, hits_at_1, tfidf_scores, variety
from hfssl.evaluation.significance import bootstrap_sums, group_sums, interval
from hfssl.evaluation.ssa import KEY, check_no_sheet, read_sheets, score_ssa, write_sheet
from hfssl.generation import Decoding, Try, decode, rank
from hfssl.generation.loading import count_positions

CANDIDATES, RANKED = 20, (1, 5, 20)
TEMPERATURE = 0.88  # Meena's, of sample-and-rank


@dataclass
class DialogueArguments:
    """Whose replies, and to what; or the sheets of raters."""

    model: str | None = field(default=None, metadata={"help": "A directory that pretrain_conditional.py saved."})
    data: str = field(
        default="builtin:toypairs/dialogue",
        metadata={"help": "Conversations that were not trained on: a table, or a folder with a part of that split."},
    )
    split: str = field(default="test", metadata={"help": "Of a folder or of builtin data: train, validation or test."})
    limit: int | None = field(default=500, metadata={"help": "Replies that are scored, chosen by chance; null: all."})
    replies: int = field(
        default=100, metadata={"help": "Contexts that are replied to, the first of those that leave room."}
    )
    max_new_tokens: int = field(default=40, metadata={"help": "Of a reply."})
    batch_size: int = field(default=32, metadata={"help": "Rows at a time."})
    seed: int = field(default=0, metadata={"help": "Of the choice, the distractors, the samples and the intervals."})
    ssa_out: str | None = field(default=None, metadata={"help": "A folder for a sheet of all replies for raters."})
    ssa_in: list[str] | None = field(
        default=None, metadata={"help": "Filled-in sheets, one a rater, in a folder with key.json: score them."}
    )
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures and the replies."})

    def __post_init__(self):
        if (self.model is None) == (self.ssa_in is None):
            raise InputError("give either --model, or --ssa_in with the sheets that raters filled in")
        if min(self.replies, self.batch_size, self.max_new_tokens, 1 if self.limit is None else self.limit) < 1:
            raise InputError("--limit, --replies, --max_new_tokens and --batch_size must be at least 1")


def score_dialogue(args: DialogueArguments) -> dict[str, Any]:
    """The figures by name.

    Returns:
        "perplexity" of the replies (see `conditional.perplexity`); "hits@1/20" and "TF-IDF hits@1/20": {"score", "low",
        "high", "groups" (conversations)}, shares; "replies": by the name of a way of decoding, and of "people",
        `dialogue.variety` and "log p", the mean over replies of that a token.

    Raises:
        InputError: no dialogue model, or too little data.
    """
    if args.out:
        check_file(args.out)
    if args.ssa_out:
        check_no_sheet(args.ssa_out)
    model, tokenizer, layout = load_conditional(args.model, "dialogue")
    everything = read_pairs(args.data, args.split, needed=("context", "response"))
    everything = [
        row | {"conversation": number}
        for row, number in zip(everything, conversations(everything), strict=True)
        if row["response"].strip()
    ]
    rows = some(everything, args.limit, args.seed)
    groups = [row["conversation"] for row in rows]
    log_p, counts = target_scores(model, tokenizer, layout, rows, args.batch_size, "perplexity of the replies")
    found: dict[str, Any] = {"perplexity": perplexity(log_p, counts, groups, seed=args.seed)}
    try:
        candidates = draw_candidates(rows, everything, CANDIDATES, args.seed)
    except ValueError as error:
        raise InputError(f"{args.data}: {error}") from None
    by_model = candidate_scores(model, tokenizer, layout, rows, candidates, args.batch_size)
    for name, scores in (("hits@1/20", by_model), ("TF-IDF hits@1/20", tfidf_scores(rows, candidates))):
        hits = hits_at_1(scores)
        drawn = bootstrap_sums(group_sums(np.stack([hits, np.ones(len(hits))], 1), groups), seed=args.seed)
        limits = interval(drawn[:, 0] / drawn[:, 1])
        found[name] = {
            "score": float(hits.mean()), "low": limits.low, "high": limits.high, "groups": len(set(groups))
        }  # fmt: skip

    prompts = prompts_of(model, tokenizer, layout, rows, args)
    asked = [rows[at] for at in prompts]
    tries = replies_of(model, tokenizer, list(prompts.values()), args)
    said = {name: [layout.decode(tokenizer, one.ids) for one in chosen] for name, chosen in tries.items()}
    likely = {name: float(np.mean([one.mean_log_p for one in chosen])) for name, chosen in tries.items()}
    said["people"] = [row["response"].strip() for row in asked]
    mean = (log_p / np.maximum(counts, 1))[list(prompts)]  # NaN where a reply is over the positions
    likely["people"] = float(np.nanmean(mean))
    found["replies"] = {name: variety(texts) | {"log p": likely[name]} for name, texts in said.items()}
    if args.ssa_out:
        write_sheet(args.ssa_out, [row["context"] for row in asked], said, args.seed)
    if args.out:
        write_json(
            args.out,
            [row | {"replies": {name: texts[at] for name, texts in said.items()}} for at, row in enumerate(asked)],
            settings=asdict(args), scores=found,
        )  # fmt: skip
    return found


def candidate_scores(model, tokenizer, layout, rows, candidates, batch_size: int = 32) -> np.ndarray:
    """The mean log p of a token of each candidate, (N, C); -inf for one that does not fit the model's positions."""
    flat = [
        {"context": row["context"], "response": text}
        for row, texts in zip(rows, candidates, strict=True)
        for text in texts
    ]
    log_p, counts = target_scores(
        model, tokenizer, layout, flat, batch_size, "hits@1/20, rows of a context and a candidate"
    )
    return np.where(counts > 0, log_p / np.maximum(counts, 1), -np.inf).reshape(len(rows), -1)


def prompts_of(model, tokenizer, layout, rows: Sequence[Row], args: DialogueArguments) -> dict[int, list[int]]:
    """The prompts of the first `args.replies` rows that leave room for a reply, by the number of the row.

    Raises:
        InputError: no row does.
    """
    positions = count_positions(model)
    room = None if positions is None else max(1, positions - args.max_new_tokens)
    found: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        if len(found) == args.replies:
            break
        try:
            found[at] = layout.prompt_ids(tokenizer, row, room)
        except InputError:  # its last turn alone is over the room
            if room is None:
                raise
    if not found:
        raise InputError(f"no context leaves room for --max_new_tokens {args.max_new_tokens}: give fewer")
    return found


def replies_of(model, tokenizer, prompts: list[list[int]], args: DialogueArguments) -> dict[str, list[Try]]:
    """A reply to each prompt by each way: greedy, a sample, and Meena's sample-and-rank of N.

    The N of sample-and-rank are the first of the same twenty samples, so that the ways differ in the ranking alone.
    """

    def drawn(temperature: float, tries: int) -> list[list[Try]]:
        how = Decoding(args.max_new_tokens, temperature, seed=args.seed)
        return decode(model, tokenizer, prompts, how, tries, max(1, args.batch_size // tries))

    samples = drawn(TEMPERATURE, max(RANKED))
    ranked = {f"rank, N = {n}": [rank(tries[:n]).best for tries in samples] for n in RANKED}
    singles = {name: [tries[0] for tries in drawn(t, 1)] for name, t in (("greedy", 0.0), ("sample", 1.0))}
    return singles | ranked


def score_sheets(paths: Sequence[str]) -> dict[str, Any]:
    """`ssa.score_ssa` of filled-in sheets, whose key lies beside the first.

    Raises:
        InputError: there is no key, or a sheet is none.
    """
    raters, place = read_sheets(paths), Path(paths[0]).expanduser().parent / KEY
    try:
        key = json.loads(place.read_text(encoding="utf-8"))
        if not isinstance(key, dict) or not all(isinstance(system, str) for system in key.values()):
            raise ValueError("it is no list of systems by item")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {place}, which says whose each reply is: {error}") from None
    return score_ssa(key, raters)
