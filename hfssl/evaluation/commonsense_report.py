"""A commonsense model beside the nearest neighbour, a unigram, and chance (COMET, Bosselut et al. 2019)."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.benchmarking import write_json
from hfssl.data.layout import Layout
from hfssl.data.pair_files import read_pairs
from hfssl.data.readers import visible_files
from hfssl.errors import InputError
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.commonsense import Query, best_threshold, comet_bleu2, nearest_objects, novelty
from hfssl.evaluation.conditional import (
    Row,
    load_conditional,
    perplexity,
    some,
    target_scores,
    unigram_perplexity,
)
from hfssl.evaluation.significance import bootstrap_sums, interval
from hfssl.generation import complete_many

logger = logging.getLogger(__name__)

_FIELDS = ("head", "relation", "tail")


@dataclass
class CommonsenseArguments:
    """Whose knowledge, and of what."""

    model: str = field(metadata={"help": "A directory or a Hub id that pretrain_conditional.py saved."})
    data: str = field(
        default="builtin:toypairs/commonsense",
        metadata={"help": "A folder with train, validation and test tables; of several data sets the model's own."},
    )
    num_beams: int = field(default=5, metadata={"help": "Beams; all of them are scored."})
    limit: int | None = field(
        default=None,
        metadata={"help": "Complete so many heads and relations alone, by chance; perplexity is of all rows."},
    )
    batch_size: int = field(default=32, metadata={"help": "Rows at a time."})
    seed: int = field(default=0, metadata={"help": "Of the intervals, and of what --limit chooses."})
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures and the completions."})

    def __post_init__(self):
        if self.num_beams < 1 or self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise InputError("--num_beams, --batch_size and --limit must be at least 1")


def score_commonsense(args: CommonsenseArguments) -> dict[str, Any]:
    """The figures by name.

    Returns:
        "perplexity" (see `conditional.perplexity`) and "unigram perplexity"; "BLEU-2", "novelty" and "nearest neighbour
        BLEU-2" (see `commonsense`); with false statements in the validation and the test part "classification"; the
        "completions".

    Raises:
        InputError: no commonsense model, or data of none of its relations.
    """
    if args.out:
        check_file(args.out)
    model, tokenizer, layout = load_conditional(args.model, "commonsense")
    named = data_of_model(args.data, layout)
    relations = ", ".join(tag.strip("<>") for tag in layout.known("relation"))
    logger.info("data: %s%s; relations that the model knows: %s", args.data, named and f", of it {named}", relations)
    parts = {
        split: read_pairs(args.data, split, tables_only=named, needed=_FIELDS)
        for split in ("train", "validation", "test")
    }
    train, test = _true(parts["train"]), _true(parts["test"])
    log_p, counts = target_scores(model, tokenizer, layout, test, args.batch_size, "perplexity of the test part")
    heads = [row["head"] for row in test]
    found: dict[str, Any] = {"perplexity": perplexity(log_p, counts, heads, seed=args.seed)}
    found["unigram perplexity"] = unigram_perplexity(tokenizer, layout, train, test)

    references: dict[Query, list[str]] = defaultdict(list)
    for row in test:
        references[row["head"], row["relation"]].append(row["tail"])
    queries = some(list(references), args.limit, args.seed)
    asked = [{"head": head, "relation": relation} for head, relation in queries]
    said = complete_many(model, tokenizer, layout, asked, args.num_beams, batch_size=args.batch_size)
    completions = {query: [one.text for one in beams] for query, beams in zip(queries, said, strict=True)}
    tuples = [(row["head"], row["relation"], row["tail"]) for row in train]
    neighbours = nearest_objects(tuples, queries, args.num_beams)
    for name, answers in (("BLEU-2", completions), ("nearest neighbour BLEU-2", neighbours)):
        found[name] = score and asdict(score) if (score := comet_bleu2(answers, references, seed=args.seed)) else None
    found["novelty"] = asdict(novelty(completions, tuples))
    if all(any(row.get("weight") == 0 for row in parts[split]) for split in ("validation", "test")):
        found["classification"] = classify(model, tokenizer, layout, parts, args.batch_size, args.seed)
    if args.out:
        rows = [
            {"head": head, "relation": relation, "beams": beams, "references": references[head, relation]}
            for (head, relation), beams in completions.items()
        ]
        write_json(args.out, rows, settings=asdict(args), data=named or args.data, scores=found)
    return found | {"completions": completions}


def data_of_model(path: str, layout: Layout) -> str:
    """What the file names of the model's data set begin with in a folder that holds several; "" if there is one.

    Raises:
        InputError: the model knows none of the relations.
    """
    folder, known = Path(path).expanduser(), {tag.strip("<>") for tag in layout.known("relation")}
    names = [""]
    if not path.startswith("builtin:") and folder.is_dir():
        files = visible_files(folder, lambda file: ".parquet" in file.suffixes or file.suffix in (".csv", ".jsonl"))
        begun = [re.match(r"[A-Za-z0-9]*", file.name)[0] for file in files]
        names = list(dict.fromkeys(begun)) if len(set(begun)) < len(begun) else [""]
    relations = {
        name: {row["relation"].strip(" <>") for row in read_pairs(path, "test", tables_only=name, needed=_FIELDS)}
        for name in names
    }
    fitting = [name for name, found in relations.items() if found and found <= known]
    if not fitting:
        there = sorted(set().union(*relations.values()))
        raise InputError(
            f"the model knows the relations {', '.join(sorted(known))}; {path} has {', '.join(there)[:200]}: "
            "name the data that it was trained on"
        )
    return fitting[0] if len(names) > 1 else ""


def _true(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("weight") != 0]


def classify(model, tokenizer, layout: Layout, parts: dict[str, list[Row]], batch_size: int, seed: int) -> dict:
    """Whether statements are true, by log p a token of the object (ConceptNet: Li et al. 2016).

    True is what lies over the threshold that is right most often on the validation part.

    Returns:
        {"accuracy", "low", "high", "validation accuracy", "threshold", "always true", "statements"}; shares.
    """
    scores, labels = {}, {}
    for split in ("validation", "test"):
        log_p, counts = target_scores(
            model, tokenizer, layout, parts[split], batch_size, f"true or false, {split} part"
        )
        kept = counts > 0
        scores[split] = log_p[kept] / counts[kept]
        labels[split] = np.array([row.get("weight") != 0 for row in parts[split]])[kept]
    threshold = best_threshold(scores["validation"], labels["validation"])
    right = {split: (scores[split] > threshold) == labels[split] for split in scores}
    drawn = bootstrap_sums(right["test"][:, None].astype(float), seed=seed)[:, 0] / len(right["test"])
    limits = interval(drawn)
    return {
        "accuracy": float(right["test"].mean()), "low": limits.low, "high": limits.high,
        "validation accuracy": float(right["validation"].mean()), "threshold": threshold,
        "always true": float(labels["test"].mean()), "statements": len(right["test"]),
    }  # fmt: skip


def commonsense_lines(found: dict[str, Any], num_beams: int) -> list[tuple[str, str]]:
    """The figures in words: what each is, and its value with its anchors."""
    told, unigram = found["perplexity"], f"unigram {found['unigram perplexity']:.1f}"
    value = f"{told['perplexity']:.2f} ({told['low']:.2f} to {told['high']:.2f}); {unigram}"
    lines = [("perplexity of the objects, ends counted", value)]
    for name in ("BLEU-2", "nearest neighbour BLEU-2"):
        score = found[name]
        value = "every pair is skipped: over a third of its references are 'none'"
        if score:
            value = f"{score['score']:.2f} ({score['interval']['low']:.2f} to {score['interval']['high']:.2f})"
            value += f", {score['scored']:,} pairs, {score['skipped']:,} skipped"
        lines.append((f"{name}, {num_beams} beams", value))
    new = found["novelty"]
    lines.append(("N/T sro, N/T o, N/U o, %", f"{new['sro']:.2f}, {new['o']:.2f}, {new['unique_o']:.2f}"))
    if told := found.get("classification"):
        lines.append(
            ("true or false, % right",
             f"{100 * told['accuracy']:.1f} ({100 * told['low']:.1f} to {100 * told['high']:.1f}); always true "
             f"{100 * told['always true']:.1f}; threshold {told['threshold']:.3f} nats a token, of validation")
        )  # fmt: skip
    return lines
