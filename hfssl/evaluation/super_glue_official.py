"""SuperGLUE's metrics as an `evaluate` module: `evaluate.load("hfssl/evaluation/super_glue_official.py", "multirc")`.

Inputs and keys are those of `evaluate`'s own `super_glue`, without MultiRC's f1_m, which the board does not show, and
with AX-g's gender parity, which it lacks. The file and metrics.py beside it are the whole module.
"""

import warnings

import datasets
import evaluate

from .metrics import (
    accuracy,
    f1_a,
    gender_parity,
    macro_f1,
    matthews_correlation,
    problems,
    question_em,
    token_em,
    token_f1,
)

_CONFIGURATIONS = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "wsc.fixed", "axb", "axg")


class SuperGlueOfficial(evaluate.Metric):
    def _info(self):
        if self.config_name not in _CONFIGURATIONS:
            raise KeyError(f"no configuration {self.config_name!r}; there is {', '.join(_CONFIGURATIONS)}")
        return evaluate.MetricInfo(
            description="The official metrics of SuperGLUE (Wang et al. 2019).",
            citation="Wang et al. 2019, SuperGLUE, https://arxiv.org/abs/1905.00537",
            inputs_description="Class numbers as on the Hub; dictionaries for multirc and record.",
            features=datasets.Features(self._features()),
        )

    def _features(self):
        number, text = datasets.Value("int64"), datasets.Value("string")
        if self.config_name == "record":
            idx = {"passage": number, "query": number}
            return {
                "predictions": {"idx": idx, "prediction_text": text},
                "references": {"idx": idx, "answers": datasets.List(text)},
            }
        if self.config_name == "multirc":
            idx = {"paragraph": number, "question": number, "answer": number}
            return {"predictions": {"idx": idx, "prediction": number}, "references": number}
        return {"predictions": number, "references": number}

    def _compute(self, predictions, references):
        name = self.config_name
        if name == "record":
            texts = {_key(row, "passage", "query"): row["prediction_text"] for row in predictions}
            keys = [_key(row, "passage", "query") for row in references]
            found, answers = [texts.get(key, "") for key in keys], [row["answers"] for row in references]
            return {"exact_match": token_em(found, answers), "f1": token_f1(found, answers)}
        if name == "multirc":
            groups = [_key(row, "paragraph", "question") for row in predictions]
            predictions = [row["prediction"] for row in predictions]
        for problem in problems(predictions, ("matthews_correlation",) if name == "axb" else ()):
            warnings.warn(problem, stacklevel=2)
        if name == "multirc":
            em = question_em(predictions, references, groups)
            return {"exact_match": em, "f1_a": f1_a(predictions, references, 1)}
        if name == "axb":
            return {"matthews_correlation": matthews_correlation(predictions, references)}
        scores = {"accuracy": accuracy(predictions, references)}
        if name == "cb":
            scores["f1"] = macro_f1(predictions, references, (0, 1, 2))
        if name == "axg":
            scores["gender_parity"] = gender_parity(predictions)
        return scores


def _key(row, *names):
    return tuple(row["idx"][name] for name in names)
