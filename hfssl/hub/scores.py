"""Scores as the Hub shows them: `.eval_results/*.yaml`, and `model-index` in the card, which older readers know.

Every value is taken from a JSON file that `hfssl glue`, `hfssl superglue` or `hfssl probe` wrote; there is no other way
in. `.eval_results` needs a data set of the Hub, so what was measured on a user's own files stands in the card alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hfssl import __version__
from hfssl.errors import InputError, one_line
from hfssl.evaluation.results import FORMAT, ModelResult, TaskResult, read_result
from hfssl.evaluation.tasks import suite_tasks

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

PROBE = "results.json"  # of hfssl probe
_NO_CARD = "---\nlibrary_name: transformers\n---\n"
_NAMES = {"f1": "F1", "matthews": "Matthews correlation", "em": "exact match"}


@dataclass
class Scores:
    """What a folder of results says.

    Attributes:
        entries: by the name of their file in `.eval_results`, without its ending.
        index: the same and more, for the card.
    """

    entries: dict[str, list[EvalResultEntry]] = field(default_factory=dict)
    index: list[EvalResult] = field(default_factory=list)

    def files(self, earlier: Callable[[str], str | None] = lambda path: None) -> dict[str, bytes]:
        """`.eval_results/NAME.yaml`, as huggingface_hub reads them.

        Args:
            earlier: the text of such a file in the repository, if it is there: what is of other tasks stays.
        """
        from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

        files = {}
        for name, entries in self.entries.items():
            path, new = f".eval_results/{name}.yaml", {(one.dataset_id, one.task_id) for one in entries}
            try:
                there = parse_eval_result_entries(yaml.safe_load(earlier(path) or "[]"))
            except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
                raise InputError(
                    f"{path} on the Hub is damaged: {one_line(error)[:200]}; mend it there first"
                ) from None
            entries = [*(one for one in there if (one.dataset_id, one.task_id) not in new), *entries]
            if entries:
                text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
                files[path] = text.encode()
        return files


def result_files(folder: Path) -> list[Path]:
    """The files of a folder that hold scores, by name."""
    files = [path for path in sorted(folder.glob("*.json")) if path.is_file()]
    found = [path for path in files if FORMAT in path.read_text(errors="replace")[:200]]
    return [*found, *([folder / PROBE] if _is_probe(folder / PROBE) else [])]


def read_scores(folder: str | Path) -> Scores:
    """The scores in a folder of results.

    Raises:
        InputError: there are none, they are damaged, or they are of synthetic data.
    """
    folder, scores = Path(folder), Scores()
    for path in result_files(folder):
        if path.name == PROBE:
            _add_probe(scores, json.loads(path.read_text()), str(path))
        else:
            _add_suite(scores, read_result(path), str(path))
    if not scores.index:
        raise InputError(f"no scores in {folder}: results of hfssl glue, hfssl superglue or hfssl probe")
    return scores


def _add_suite(scores: Scores, result: ModelResult, place: str) -> None:
    from huggingface_hub import EvalResult, EvalResultEntry

    if result.synthetic:
        raise InputError(f"{place} is of synthetic data, by which no model on the Hub is to be judged")
    entries = scores.entries.setdefault(result.suite if result.part == "dev" else f"{result.suite}_{result.part}", [])
    for name, found in result.tasks.items():
        task, medians = suite_tasks(result.suite)[name], found.median()
        entries.append(
            EvalResultEntry(
                dataset_id=task.hub,
                task_id=task.hub_config or name,
                value=round(medians[task.headline], 2),
                notes=f"{_metric_name(task.headline)}; {_notes(result, found, task.headline)}",
            )
        )
        for score, value in medians.items():
            scores.index.append(
                EvalResult(
                    task_type="text-classification",
                    dataset_type=task.hub,
                    dataset_config=task.hub_config,
                    dataset_split="validation" if result.part == "dev" else "test",
                    dataset_name=f"{result.suite.upper().replace('SUPERGLUE', 'SuperGLUE')} {task.title}",
                    metric_type=score.split("_")[0],
                    metric_name=f"{_metric_name(score)} ({_notes(result, found, score)})",
                    metric_value=round(value, 2),
                )
            )


def _metric_name(score: str) -> str:
    return _NAMES.get(score, score.replace("_", " "))


def _notes(result: ModelResult, found: TaskResult, score: str) -> str:
    """The protocol in a line: which part, how many seeds, the interval, and what others do not do."""
    parts = [f"{result.part} set", f"median of {len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"]
    if score in found.intervals:
        low, high = found.intervals[score]
        parts.append(f"95 % interval {low:.1f} to {high:.1f}")
    parts += [note for note in (found.part, found.cut_short()) if note]
    parts += [f"started from {found.started_from.upper()}"] if found.started_from else []
    parts += [found.trick] if found.trick else []
    return "; ".join([*parts, f"hfssl {result.versions.get('hfssl', __version__)}"])


def _is_probe(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"rows", "protocol", "data"} <= content.keys()


def _add_probe(scores: Scores, content: dict[str, Any], place: str) -> None:
    try:
        split = content["data"]["plain"]
        rows = [row for row in content["rows"] if row["layer"] == "pooled" and row["test"] == "plain"]
        own = [row for row in rows if row["encoder"] == rows[0]["encoder"]]
        for row in own:
            anchors = [one for one in rows if _key(one) == _key(row) and one is not row]
            _add_probe_row(scores, row, anchors, split)
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{place} is no result of hfssl probe: {error!r}") from None


def _add_probe_row(
    scores: Scores, row: Mapping[str, Any], anchors: Sequence[Mapping[str, Any]], split: Mapping[str, Any]
) -> None:
    from huggingface_hub import EvalResult, EvalResultEntry

    source, value = split["source"], round(100 * row["accuracy"], 2)
    beside = ", ".join(f"{one['encoder']} {100 * one['accuracy']:.1f}" for one in anchors)
    notes = (
        f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f} over {split['images']:,} images; "
        f"anchors: {beside or 'none measured'}; hfssl {__version__}"
    )
    name = f"accuracy, {row['protocol']} on frozen features, labels: {row['labels']}"
    hub_id = source.partition(" ")[0] if " (Hub" in source else None
    if hub_id and row["labels"] == "all":
        entry = EvalResultEntry(dataset_id=hub_id, task_id=row["protocol"], value=value, notes=f"{name}; {notes}")
        scores.entries.setdefault("probe", []).append(entry)
    scores.index.append(
        EvalResult(
            task_type="image-classification",
            dataset_type=hub_id or Path(source).stem,
            dataset_name=hub_id or Path(source).name,
            metric_type="accuracy",
            metric_name=f"{name} ({notes})",
            metric_value=value,
        )
    )


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["protocol"], row["labels"]


def with_scores(card: str, name: str, scores: Sequence[EvalResult]) -> str:
    """A card's text with the scores in its `model-index`: of a data set and metric that are there the new value stays.

    Raises:
        InputError: the card's YAML is damaged.
    """
    found = _read_card(card, name)
    new = {_identity(one) for one in scores}
    earlier = [one for one in found.data.eval_results or [] if _identity(one) not in new]
    found.data.model_name = found.data.model_name or name.rpartition("/")[2]
    found.data.eval_results = [*earlier, *scores]
    return str(found)


def _identity(score: EvalResult) -> tuple[str, ...]:
    """What a score is of; the notes behind its name may change."""
    return (*map(str, score.unique_identifier), score.metric_type, (score.metric_name or "").partition(" (")[0])


def card_scores(card: str, name: str) -> list[EvalResult]:
    """The scores in a card's `model-index`.

    Raises:
        InputError: the card's YAML is damaged.
    """
    return list(_read_card(card, name).data.eval_results or [])


def _read_card(card: str, name: str):
    from huggingface_hub import ModelCard

    try:
        return ModelCard(card or _NO_CARD, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"the card of {name} has a damaged head; mend it first: {one_line(error)[:200]}") from None
