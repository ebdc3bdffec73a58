"""What needs no pretraining scores on GLUE or SuperGLUE: the most frequent class, and TF-IDF with a linear model.

    python eval/glue_baselines.py --suite glue --data_dir data/glue --out eval/results
    python eval/glue_baselines.py --suite superglue --data_dir builtin:toyglue --tasks cb,copa,wic

What a model adds is what it scores above these two rows; eval/LEADERBOARD.md has them of the data at hand. Wang et al.
2019 print the most frequent class of SuperGLUE. The data is the Hub's without --data_dir; builtin:toyglue takes
seconds, the large tasks minutes each on a CPU. Expect 0 for CoLA and STS-B of the most frequent class, and WNLI far
below chance of TF-IDF, since its dev set repeats sentences of train with the other label.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.baseline_results import baseline_results
from hfssl.evaluation.leaderboard import result_table
from hfssl.evaluation.results import write_result
from hfssl.evaluation.tasks import select_tasks


@dataclass
class BaselineArguments:
    """Which tasks, and where their data is."""

    suite: str = field(default="glue", metadata={"help": "glue or superglue."})
    tasks: str = field(default="all", metadata={"help": "Names with commas between, or all."})
    data_dir: str = field(default="hub", metadata={"help": "A folder, builtin:toyglue, or the Hub."})
    out: str | None = field(default=None, metadata={"help": "The folder to write a JSON file for each baseline to."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BaselineArguments, argv=argv)
    console = Console()
    tasks = select_tasks(args.suite, args.tasks)
    results = baseline_results(args.suite, args.data_dir, tasks, say=console.print)
    for result in results:
        console.print(result_table(result))
        if args.out:
            name = f"{args.suite}_dev_{result.model.replace(' ', '_').lower()}.json"
            console.print(f"wrote {write_result(result, Path(args.out) / name)}")
    return results


if __name__ == "__main__":
    main()
