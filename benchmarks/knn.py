"""kNN by cosine similarity, weighted, beside lightly's knn_predict and scikit-learn's KNeighborsClassifier.

    python benchmarks/knn.py
    python benchmarks/knn.py --features out/probe/embeddings.parquet --repeats 5 --out out/knn.json

A bank of 50,000 features of 512 dimensions and 10,000 queries, made up with ten classes, or those that
`hfssl probe --export_embeddings --out` wrote. lightly (pip install lightly) gets batches of 256 queries, as in its own
evaluation. Two rows: one k, and the grid of k that the probe chooses from, for which one search is enough. The
accuracies must agree to 0.2 points. Goal: half the time of the faster peer. On a CPU one k is nearly all one product of
matrices, the same for all, so expect the goal to be reached for the grid alone.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from sklearn.neighbors import KNeighborsClassifier

from hfssl.benchmarking import figure, interleave, print_table, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.embeddings import made_up_embeddings, read_embeddings
from hfssl.evaluation.knn import K_GRID, TEMPERATURE, knn_grid


@dataclass
class BenchmarkArguments:
    features: str | None = field(default=None, metadata={"help": "embeddings.parquet; by default made up."})
    bank: int = field(default=50_000, metadata={"help": "Made-up features to search in."})
    queries: int = field(default=10_000, metadata={"help": "Made-up features to classify."})
    dim: int = field(default=512, metadata={"help": "Their dimensions."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/knn.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    parts = made_up_embeddings(args.bank, args.queries, args.dim)
    if args.features:
        parts = list(read_embeddings(args.features).values())[:2]
    (bank, bank_labels), (queries, labels) = parts
    classes, rows, found = int(bank_labels.max()) + 1, [], {}
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    columns = bank.T.contiguous()

    def lightly(k):
        parts = [knn_predict(part, columns, bank_labels, classes, k, TEMPERATURE)[:, 0] for part in queries.split(256)]
        return torch.cat(parts)

    def sklearn(k):
        vote = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE))
        return torch.from_numpy(vote.fit(bank.numpy(), bank_labels.numpy()).predict(queries.numpy()))

    for what, ks in (("k = 200", (200,)), (f"k = {', '.join(map(str, K_GRID))}", K_GRID)):
        arms = {
            "hfssl": lambda ks=ks: found.update(hfssl=knn_grid(queries, bank, bank_labels, classes, ks)),
            "lightly": lambda ks=ks: found.update(lightly=torch.stack([lightly(k) for k in ks])),
            "scikit-learn": lambda ks=ks: found.update(sklearn=torch.stack([sklearn(k) for k in ks])),
        }
        seconds = {arm: spread(times) for arm, times in interleave(arms, args.repeats).items()}
        accuracies = {arm: 100 * (guesses == labels).double().mean(1) for arm, guesses in found.items()}
        assert all((value - accuracies["hfssl"]).abs().max() <= 0.2 for value in accuracies.values()), accuracies
        ratio = min(seconds[arm]["median"] for arm in ("lightly", "scikit-learn")) / seconds["hfssl"]["median"]
        rows.append({"measure": what, "seconds": seconds, "ratio": ratio, "accuracy": accuracies["hfssl"].tolist()})
    lines = [[row["measure"], *map(figure, row["seconds"].values()), f"{row['ratio']:.3g}"] for row in rows]
    print_table(["", *rows[0]["seconds"], "times as fast"], lines, f"kNN, seconds: {len(queries):,} in {len(bank):,}")
    write_json(args.out, rows, bank=list(bank.shape), queries=len(queries), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
