"""Logistic regression for a grid of C: all values at once, beside scikit-learn's LogisticRegression, one by one.

    python benchmarks/linear_probe.py
    python benchmarks/linear_probe.py --features out/probe/embeddings.parquet --repeats 5 --out out/linear_probe.json

50,000 features of 512 dimensions and ten classes, made up, or those that `hfssl probe --export_embeddings --out` wrote;
standardised. C from 1e-4 to 100. scikit-learn (L-BFGS) goes from the smallest C to the largest, each from the solution
before (warm_start), which is its fastest way; both stop at the same tolerance, 1e-4. For the C that is best on the test
features the accuracies must agree to 0.2 points; the JSON has them for each C. Goal: 3 times as fast.
"""

from dataclasses import dataclass, field

import torch
from sklearn.linear_model import LogisticRegression

from hfssl.benchmarking import compare, interleave, show, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.classifiers import C_GRID, standardised
from hfssl.evaluation.embeddings import made_up_embeddings, read_embeddings
from hfssl.evaluation.logistic import fit_logistic


@dataclass
class BenchmarkArguments:
    features: str | None = field(default=None, metadata={"help": "embeddings.parquet; by default made up."})
    train: int = field(default=50_000, metadata={"help": "Made-up features to train on; a fifth as many to test."})
    dim: int = field(default=512, metadata={"help": "Their dimensions."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/linear_probe.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    parts = made_up_embeddings(args.train, args.train // 5, args.dim)
    if args.features:
        parts = list(read_embeddings(args.features).values())[:2]
    (train, labels), (test, test_labels) = parts
    classes, accuracies = int(labels.max()) + 1, {}
    test, train = (part.float() for part in standardised(test, train))

    def hfssl():
        fits = fit_logistic(train, labels, classes, C_GRID)
        guesses = [fits.predict(test, head) for head in range(len(C_GRID))]
        accuracies["hfssl"] = [100 * (guess == test_labels).double().mean().item() for guess in guesses]

    def sklearn():
        model, accuracies["scikit-learn"] = LogisticRegression(max_iter=10_000, warm_start=True), []
        for c in C_GRID:
            model.set_params(C=c).fit(train.numpy(), labels.numpy())
            accuracies["scikit-learn"].append(100 * model.score(test.numpy(), test_labels.numpy()))

    seconds = interleave({"scikit-learn": sklearn, "hfssl": hfssl}, args.repeats)
    rows = compare({arm: [{"seconds": each} for each in times] for arm, times in seconds.items()}, ["seconds"])
    best = max(range(len(C_GRID)), key=lambda i: accuracies["scikit-learn"][i])
    assert abs(accuracies["hfssl"][best] - accuracies["scikit-learn"][best]) <= 0.2, accuracies
    show(rows, f"Logistic regression, {len(C_GRID)} values of C, {len(train):,} x {train.shape[1]}")
    write_json(args.out, rows, accuracies=accuracies, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
