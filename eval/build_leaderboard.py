"""Writes eval/LEADERBOARD.md: published results on GLUE and SuperGLUE with their sources, and ours among them.

    python eval/build_leaderboard.py
    python eval/build_leaderboard.py --results eval/results out/minilm --out LEADERBOARD.md

Results are the JSON files of `hfssl glue`, `hfssl superglue` and eval/glue_baselines.py. dev and test are never in one
table, synthetic data has its own, and each row says what it does that others do not (footnotes). Takes a second.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.leaderboard import board_markdown, boards
from hfssl.evaluation.results import find_results
from hfssl.files import write_whole

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Leaderboard

Written by `python eval/build_leaderboard.py`. Rows in bold were computed here: medians over seeds, from the JSON files
in `eval/results`. All others are published figures; the source of each stands below its table.
"""


@dataclass
class LeaderboardArguments:
    """What to put in and where to write."""

    results: list[str] | None = field(default=None, metadata={"help": "Files or folders; without it eval/results."})
    out: str = field(default=str(HERE / "LEADERBOARD.md"), metadata={"help": "The Markdown file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(LeaderboardArguments, argv=argv)
    own = find_results(args.results or sorted((HERE / "results").glob("*.json")))
    tables = boards(own)
    write_whole(args.out, "\n".join([INTRODUCTION, *map(board_markdown, tables)]))
    print(f"wrote {args.out}: {len(tables)} tables, {len(own)} results of our own")


if __name__ == "__main__":
    main()
