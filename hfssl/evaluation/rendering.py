"""A task's rows as one or two texts, for whatever reads texts: a sequence classifier or a bag of words.

COPA and ReCoRD become one row for each candidate, to be scored; `best_candidates` chooses by the scores. So does
`ranked_hypotheses` for WNLI, whose rows come from such candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfssl.errors import InputError
from hfssl.evaluation.task_data import SplitData

# The questions of the original COPA (Roemmele et al. 2011).
COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
SCORED_KINDS = ("choice", "entities")  # one row a candidate


@dataclass(frozen=True)
class CandidateRows:
    """Candidates of a split, one after another.

    Attributes:
        first, second: the two texts of each.
        row: the number in the split of the row it belongs to.
        right: whether it is an answer, or None without labels.
    """

    first: list[str]
    second: list[str]
    row: list[int]
    right: list[bool] | None


def pair_texts(data: SplitData) -> tuple[list[str], list[str] | None]:
    """Each row's text, or its two texts.

    MultiRC: the paragraph, and question and answer. WSC: the text, and the two spans' words.

    Raises:
        InputError: for COPA and ReCoRD, whose rows are several candidates: `candidate_rows`.
    """
    kind = data.task.kind
    if kind in SCORED_KINDS:
        raise InputError(f"{data.task.title} is scored candidate by candidate")
    if kind == "answers":
        paragraphs, questions, answers = data.texts
        return paragraphs, [f"{question} {answer}" for question, answer in zip(questions, answers, strict=True)]
    if kind == "coreference":
        texts = data.texts[0]
        spans = [" ".join(text[a:b] for a, b in row) for text, row in zip(texts, data.spans, strict=True)]
        return texts, spans
    return data.texts[0], (data.texts[1] if len(data.texts) > 1 else None)


def candidate_rows(data: SplitData) -> CandidateRows:
    """COPA: premise with its question, and a choice. ReCoRD: the passage, and the query with a name in it."""
    first, second, rows, right = [], [], [], []
    labelled = (data.answers if data.task.kind == "entities" else data.labels) is not None
    for row, names in enumerate(data.candidates):
        for number, name in enumerate(names):
            rows.append(row)
            if data.task.kind == "entities":
                first.append(data.texts[0][row])
                second.append(data.texts[1][row].replace("@placeholder", name))
                right.append(labelled and name in data.answers[row])
            else:
                first.append(f"{data.texts[0][row]} {COPA_QUESTIONS[data.texts[1][row]]}")
                second.append(name)
                right.append(labelled and data.labels[row] == data.task.labels[number])
    return CandidateRows(first, second, rows, right if labelled else None)


def best_candidates(data: SplitData, candidates: CandidateRows, scores: Sequence[float]) -> list[str]:
    """The prediction for each row: the label (COPA) or name (ReCoRD) with the highest score; of equals the first."""
    best: list[tuple[float, int]] = [(float("-inf"), 0)] * len(data)
    seen = [0] * len(data)
    for row, score in zip(candidates.row, scores, strict=True):
        best[row] = max(best[row], (float(score), -seen[row]))
        seen[row] += 1
    names = data.candidates if data.task.kind == "entities" else [data.task.labels] * len(data)
    return [names[row][-number] for row, (_, number) in enumerate(best)]


def ranked_hypotheses(data: SplitData, margins: Sequence[float]) -> list[str]:
    """WNLI by ranking: of the rows with the same first text the one with the highest margin is entailed, no other.

    WNLI was made from Winograd schemas, a row for each candidate referent (Wang et al. 2018, section 3.3): the rows of
    a text compete, which the task as defined, row by row, does not say. Of equals the first; a text with one row is
    judged by the margin's sign.

    Args:
        margins: of each row, the logit of entailment less that of not_entailment.
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(data.texts[0]):
        rows_of.setdefault(text, []).append(row)
    entailed = set()
    for rows in rows_of.values():
        best = max(rows, key=lambda row: float(margins[row]))
        if len(rows) > 1 or margins[best] > 0:
            entailed.add(best)
    return ["entailment" if row in entailed else "not_entailment" for row in range(len(data))]
