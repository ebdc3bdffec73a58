"""What does a model know of everyday events? Perplexity, BLEU-2, novelty, and true from false (COMET).

    python eval/run_commonsense.py --model out/comet --data ../shared/data/commonsense
    python eval/run_commonsense.py --model out/comet --num_beams 1 --limit 500 --out comet.json

The model is one that recipes/pretrain_conditional.py made with `task: commonsense`; of a folder with several data sets
the one whose relations it knows is taken (ConceptNet-100k, Event2Mind, ATOMIC). As Bosselut et al. 2019 measure: the
perplexity of the objects' tokens; BLEU-2 over all beams, each pair's mean, then the relations' mean, without pairs of
whose references more than a third are "none"; which tuples and objects are not in the training set. With false
statements (ConceptNet) also whether log p tells them, at the threshold that is best on validation. Beside them the
answers of the nearest training head by TF-IDF. Intervals: 95 %, bootstrap over heads.
"""

from rich.console import Console
from rich.table import Table

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.commonsense_report import CommonsenseArguments, commonsense_lines, score_commonsense


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(CommonsenseArguments, argv=argv)
    found = score_commonsense(args)
    table = Table("", "", title=f"{args.model} on {args.data}", title_justify="left")
    for name, value in commonsense_lines(found, args.num_beams):
        table.add_row(name, value)
    for relation, score in ((found["BLEU-2"] or {}).get("relations") or {}).items():
        table.add_row(f"BLEU-2 of {relation}", f"{score:.2f}")
    Console().print(table)
    return found


if __name__ == "__main__":
    main()
