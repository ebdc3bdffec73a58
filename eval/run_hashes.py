"""Are the bits of documents good for search? P@100 of a hashing model, beside TF-IDF, a random init and chance.

    hfssl hashes out/hashing-brown --labelled_path passages.parquet --label_column category
    python eval/run_hashes.py --model out/hashing-brown --labelled_path passages.parquet --out hashes.json

The model is one that recipes/pretrain_hashing.py saved. A tenth of the documents, by a hash of their text, are looked
for among the others by Hamming distance; how many of the 100 nearest have their label counts. The model may have seen
the texts, never the labels. Stratos and Wiseman 2020, section 5.2. A minute on one CPU core.
"""

from rich.console import Console
from rich.table import Table

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.hash_report import HashArguments, score_hashes


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(HashArguments, argv=argv)
    found = score_hashes(args)
    table = Table(title=f"P@{args.k} of {args.model}, %", title_justify="left")
    for name in found:
        table.add_column(name, justify="right")
    table.add_row(*(f"{100 * value:.1f}" for value in found.values()))
    Console().print(table)
    return found


if __name__ == "__main__":
    main()
