"""The GLUE and SuperGLUE tasks as rows of data: columns, labels by string, metrics, counts, file names, sources.

Sources: gluebenchmark.com and super.gluebenchmark.com (Wang et al. 2018, 2019); counts from the `datasets` builders and
T5's glue_utils.py, checked against the data; file names and label strings from jiant's and T5's submission writers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hfssl.errors import InputError, nearest

GLUE_HUB, SUPERGLUE_HUB, SNLI_HUB = "nyu-mll/glue", "aps/super_glue", "stanfordnlp/snli"
# aps/super_glue holds a loading script, which datasets 4 and later refuse: the Hub's own conversion is read instead.
CONVERTED = "refs/convert/parquet"

KINDS = ("single", "pair", "regression", "choice", "words", "coreference", "answers", "entities")
SPAN_KINDS = ("words", "coreference")  # a row has two spans besides its texts
NLI = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: within its suite; ``rte`` is in both, as two rows.
        suite: ``"glue"``, ``"superglue"`` or ``"other"``.
        title: as the board writes it; also the folder of the official download and the stem of the submission's file.
        kind: ``single`` text or ``pair``; ``regression`` on a pair; ``choice`` of one of two candidates (COPA);
            ``words``: a word in each of two sentences (WiC); ``coreference``: two spans of one text (WSC);
            ``answers``: right or wrong, grouped by question (MultiRC); ``entities``: one of a set of names (ReCoRD).
        columns: the text columns of the Hub's data set, in order.
        labels: class names in the order of the Hub's integers; empty for regression and entities.
        written: what the server wants for each label, strings or integers, in the same order.
        metrics: names of `hfssl.evaluation.metrics.METRICS`; the task's score is their mean (of both dev sets, MNLI).
        headline: the one score that most papers print, a name of `score_names`.
        counts: official rows by split; there are no others.
        hub, hub_config, hub_revision: where `datasets` finds it.
        positive: the class that F1 is of.
        model_of: the task whose model predicts it, for what has no training data of its own.
        labelled_test: the test labels are part of the public data and nothing is chosen by them (AX-b, AX-g). Labels of
            every other test split are never read.
        version: of this row; changes when a result with it would.
        data_version: of the data, where there are several.
    """

    name: str
    suite: str
    title: str
    kind: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    written: tuple[str | int, ...]
    metrics: tuple[str, ...]
    headline: str
    counts: Mapping[str, int]
    hub: str
    hub_config: str | None
    hub_revision: str | None = None
    positive: str | None = None
    model_of: str | None = None
    labelled_test: bool = False
    version: int = 1
    data_version: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name in `TASKS`, unique over the suites."""
        return f"{self.suite}/{self.name}"

    @property
    def dev_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.counts if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.counts if split.startswith("test"))

    @property
    def is_diagnostic(self) -> bool:
        """Predicted by another task's model and left out of every average: AX, AX-b, AX-g."""
        return self.model_of is not None

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of its scores: the metrics, each with `_m` and `_mm` for MNLI's two sets."""
        return tuple(self.score_name(metric, split) for metric in self.metrics for split in self.scored_splits)

    @property
    def scored_splits(self) -> tuple[str, ...]:
        """What scores are of: the dev splits; of a diagnostic set its only one."""
        return self.dev_splits or self.test_splits

    def score_name(self, metric: str, split: str) -> str:
        return metric + {"matched": "_m", "mismatched": "_mm"}.get(split.partition("_")[2], "")


def _glue(name, title, kind, columns, labels, written, metrics, counts, **more) -> Task:
    train, dev, test = counts
    splits = {"train": train, "validation": dev, "test": test}
    if name == "mnli":
        splits = {"train": train, "validation_matched": dev[0], "validation_mismatched": dev[1]}
        splits |= {"test_matched": test[0], "test_mismatched": test[1]}
    files = {"test": f"{title}.tsv", "test_matched": f"{title}-m.tsv", "test_mismatched": f"{title}-mm.tsv"}
    splits = {split: count for split, count in splits.items() if count}
    return Task(
        name, "glue", title, kind, columns, labels, written, metrics, more.pop("headline", metrics[0]), splits,
        GLUE_HUB, name, files={split: files[split] for split in splits if split in files}, **more,
    )  # fmt: skip


def _superglue(name, title, kind, columns, labels, written, metrics, counts, **more) -> Task:
    splits = {split: n for split, n in zip(("train", "validation", "test"), counts, strict=True) if n}
    return Task(
        name, "superglue", title, kind, columns, labels, written, metrics, more.pop("headline", metrics[0]), splits,
        SUPERGLUE_HUB, more.pop("config", name), hub_revision=CONVERTED, files={"test": f"{title}.jsonl"}, **more,
    )  # fmt: skip


_PAIR, _NLI_COLUMNS = ("sentence1", "sentence2"), ("premise", "hypothesis")
_BITS, _BOOLS = ("0", "1"), ("False", "True")

_ROWS = (
    _glue("cola", "CoLA", "single", ("sentence",), ("unacceptable", "acceptable"), _BITS,
          ("matthews_correlation",), (8551, 1043, 1063)),
    _glue("sst2", "SST-2", "single", ("sentence",), ("negative", "positive"), _BITS,
          ("accuracy",), (67349, 872, 1821)),
    _glue("mrpc", "MRPC", "pair", _PAIR, ("not_equivalent", "equivalent"), _BITS,
          ("f1", "accuracy"), (3668, 408, 1725), positive="equivalent", headline="accuracy"),
    _glue("stsb", "STS-B", "regression", _PAIR, (), (), ("pearson", "spearmanr"), (5749, 1500, 1379)),
    # The Hub's builder leaves out 3 corrupt rows of train: T5 counts 363,849.
    _glue("qqp", "QQP", "pair", ("question1", "question2"), ("not_duplicate", "duplicate"), _BITS,
          ("f1", "accuracy"), (363846, 40430, 390965), positive="duplicate", headline="accuracy"),
    _glue("mnli", "MNLI", "pair", _NLI_COLUMNS, NLI, NLI, ("accuracy",), (392702, (9815, 9832), (9796, 9847)),
          headline="accuracy_m"),
    _glue("qnli", "QNLI", "pair", ("question", "sentence"), TWO_WAY, TWO_WAY, ("accuracy",), (104743, 5463, 5463),
          data_version="v2"),
    _glue("rte", "RTE", "pair", _PAIR, TWO_WAY, TWO_WAY, ("accuracy",), (2490, 277, 3000)),
    _glue("wnli", "WNLI", "pair", _PAIR, ("not_entailment", "entailment"), _BITS, ("accuracy",), (635, 71, 146)),
    _glue("ax", "AX", "pair", _NLI_COLUMNS, NLI, NLI, ("matthews_correlation",), (0, 0, 1104), model_of="mnli"),
    _superglue("boolq", "BoolQ", "pair", ("question", "passage"), _BOOLS, ("false", "true"), ("accuracy",),
               (9427, 3270, 3245)),
    _superglue("cb", "CB", "pair", _NLI_COLUMNS, ("entailment", "contradiction", "neutral"),
               ("entailment", "contradiction", "neutral"), ("macro_f1", "accuracy"), (250, 56, 250),
               headline="accuracy"),
    _superglue("copa", "COPA", "choice", ("premise", "question"), ("choice1", "choice2"), (0, 1), ("accuracy",),
               (400, 100, 500)),
    _superglue("multirc", "MultiRC", "answers", ("paragraph", "question", "answer"), _BOOLS, (0, 1),
               ("f1_a", "question_em"), (27243, 4848, 9693), positive="True", data_version="1.1"),
    _superglue("record", "ReCoRD", "entities", ("passage", "query"), (), (), ("token_f1", "token_em"),
               (100730, 10000, 10000)),
    _superglue("rte", "RTE", "pair", _NLI_COLUMNS, TWO_WAY, TWO_WAY, ("accuracy",), (2490, 277, 3000)),
    _superglue("wic", "WiC", "words", _PAIR, _BOOLS, ("false", "true"), ("accuracy",), (5428, 638, 1400)),
    _superglue("wsc", "WSC", "coreference", ("text",), _BOOLS, ("False", "True"), ("accuracy",), (554, 104, 146),
               config="wsc.fixed"),
    _superglue("axb", "AX-b", "pair", _PAIR, TWO_WAY, TWO_WAY, ("matthews_correlation",), (0, 0, 1104),
               model_of="rte", labelled_test=True),
    _superglue("axg", "AX-g", "pair", _NLI_COLUMNS, TWO_WAY, TWO_WAY, ("gender_parity", "accuracy"), (0, 0, 356),
               model_of="rte", labelled_test=True),
    # Rows without a gold label (785, 158 and 176) are left out.
    Task("snli", "other", "SNLI", "pair", _NLI_COLUMNS, NLI, NLI, ("accuracy",), "accuracy",
         {"train": 549367, "validation": 9842, "test": 9824}, SNLI_HUB, None),
)  # fmt: skip

TASKS: dict[str, Task] = {task.key: task for task in _ROWS}
SUITES = ("glue", "superglue")


def suite_tasks(suite: str) -> dict[str, Task]:
    """The rows of a suite by name, diagnostics last, in the board's order."""
    found = {task.name: task for task in _ROWS if task.suite == suite}
    if not found:
        raise InputError(f"unknown suite {suite!r}: one of {', '.join(SUITES)}{nearest(suite, SUITES)}")
    return found


def select_tasks(suite: str, names: str = "all") -> list[Task]:
    """The tasks that ``--tasks cola,STS-B`` or ``all`` names, in the board's order.

    Raises:
        InputError: a name that is not in the suite, or none at all.
    """
    known = suite_tasks(suite)
    if names.strip() == "all":
        return list(known.values())
    wanted = {_bare(name): name.strip().lower() for name in names.split(",") if name.strip()}
    for bare, name in wanted.items():
        if bare not in known:
            others = [other for other in SUITES if bare in suite_tasks(other)]
            hint = f"; it is one of {others[0]}: hfssl {others[0]}" if others else nearest(name, known)
            raise InputError(f"no task {name!r} in {suite}: {', '.join(known)}{hint}")
    if not wanted:
        raise InputError(f"--tasks names no task; {suite} has {', '.join(known)}")
    return [task for name, task in known.items() if name in wanted]


def _bare(name: str) -> str:
    """A task's name or title as its name: ``STS-B`` is ``stsb``."""
    return re.sub(r"[\s_-]", "", name.lower())


def label_order(task: Task, id2label: Mapping[int, str]) -> tuple[str, ...]:
    """The task's label for each class of a checkpoint, matched by its name and never by its place.

    A checkpoint fine-tuned elsewhere may number the classes otherwise: three orders of MNLI are in use.

    Args:
        id2label: a checkpoint's ``config.id2label``; upper or lower case, and ``-`` for ``_``, make no difference.

    Raises:
        InputError: another number of classes, or names that are not the task's (such as LABEL_0).
    """
    known = {_plain(label): label for label in task.labels}
    names = [str(id2label[key]) for key in sorted(id2label, key=int)]
    found = tuple(known.get(_plain(name), "") for name in names)
    if len(names) != len(task.labels):
        raise InputError(f"the head has {len(names)} classes, {task.title} has {len(task.labels)}: use a new head")
    if set(found) != set(task.labels):
        raise InputError(
            f"the head's classes are named {', '.join(names)}, {task.title}'s are {', '.join(task.labels)}: their "
            "order cannot be known; name them in config.id2label or use a new head"
        )
    return found


def _plain(label: str) -> str:
    return label.strip().lower().replace("-", "_").replace(" ", "_")
