"""How long `hfssl --help` takes, beside what it must not do: import torch.

    python benchmarks/startup.py
    python benchmarks/startup.py --repeats 11 --out out/startup.json

Each arm is a new process; they take turns. The goal is under one second.
"""

import subprocess
import sys
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from hfssl.benchmarking import interleave, median, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input

ARMS = {
    "hfssl --help": ["-c", "import sys; sys.argv = ['hfssl', '--help']; from hfssl.cli import main; main()"],
    "hfssl --version": ["-c", "import sys; sys.argv = ['hfssl', '--version']; from hfssl.cli import main; main()"],
    "python, nothing else": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
}


@dataclass
class BenchmarkArguments:
    """What is measured."""

    repeats: int = field(default=7, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/startup.json", metadata={"help": "The JSON file to write."})


def start(arguments):
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    arms = {name: lambda arguments=arguments: start(arguments) for name, arguments in ARMS.items()}
    seconds = interleave(arms, args.repeats, warmup=1)
    table = Table("arm", "seconds")
    rows = []
    for name, times in seconds.items():
        rows.append({"arm": name, "seconds": times, "median": median(times)})
        table.add_row(name, f"{median(times):.2f}")
    Console().print(table)
    write_json(args.out, rows)
    return rows


if __name__ == "__main__":
    main()
