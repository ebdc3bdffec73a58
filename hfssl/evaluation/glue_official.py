"""GLUE's metrics as an `evaluate` module: `evaluate.load("hfssl/evaluation/glue_official.py", "mrpc")`, offline.

Inputs and keys are those of `evaluate`'s own `glue`; `ax` (R3) is added. Constant predictions give 0, not NaN. The file
and metrics.py beside it are the whole module, so both together are a Space.
"""

import warnings

import datasets
import evaluate

from .metrics import accuracy, f1, matthews_correlation, pearson, problems, spearmanr

_METRICS = {
    "cola": ("matthews_correlation",),
    "ax": ("matthews_correlation",),
    "stsb": ("pearson", "spearmanr"),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
}
_ACCURACY = ("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli", "hans")
_METRICS |= dict.fromkeys(_ACCURACY, ("accuracy",))
_FUNCTIONS = {
    "accuracy": accuracy,
    "f1": lambda predictions, references: f1(predictions, references, 1),
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}


class GlueOfficial(evaluate.Metric):
    def _info(self):
        if self.config_name not in _METRICS:
            raise KeyError(f"no configuration {self.config_name!r}; there is {', '.join(sorted(_METRICS))}")
        kind = datasets.Value("float64" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description="The official metrics of GLUE (Wang et al. 2018).",
            citation="Wang et al. 2018, GLUE, https://arxiv.org/abs/1804.07461",
            inputs_description="predictions, references: class numbers as on the Hub; floats for stsb.",
            features=datasets.Features({"predictions": kind, "references": kind}),
            format="numpy",
        )

    def _compute(self, predictions, references):
        predictions, references = list(predictions), list(references)
        for problem in problems(predictions, _METRICS[self.config_name]):
            warnings.warn(problem, stacklevel=2)
        return {name: _FUNCTIONS[name](predictions, references) for name in _METRICS[self.config_name]}
