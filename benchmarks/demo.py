"""How long `hfssl demo` takes, and the memory of its largest process. The goals: 6 minutes on 2 cores, 3 GB.

python benchmarks/demo.py --out out/benchmarks/demo.json
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from hfssl.benchmarking import peak_rss, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input


@dataclass
class BenchmarkArguments:
    """What is measured."""

    out: str = field(default="out/benchmarks/demo.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hfssl.cli", "demo", "--out", f"{folder}/demo"], check=True)
        row = {"seconds": round(time.perf_counter() - began, 1), "peak_rss": peak_rss(children=True)}
    print(f"{row['seconds']:.0f} s, {row['peak_rss'] / 1e9:.2f} GB")
    write_json(args.out, [row])
    return row


if __name__ == "__main__":
    main()
