"""What do frozen features know? kNN and a linear probe, beside a random init and raw pixels.

    python eval/run_probe.py --model out/simclr --dataset builtin:digits --seeds 3 --out out/probe.json
    python eval/run_probe.py --model out/simclr --train_file train.parquet --test_file test.parquet

The protocol stands in hfssl/evaluation/probes.py and in the JSON file. The model is a directory that any of our recipes
saved, or any vision model that AutoModel loads and that has a pooled output. builtin:digits takes seconds on two cores;
raw pixels reach 98 % there on the plain test, so look at the shifted and rotated one and at five labels a class.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.probes import ProbeArguments, probe_table, run_probe


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(ProbeArguments, argv=argv)
    rows = run_probe(args)
    Console().print(probe_table(rows, title=f"Frozen features of {args.model}"))
    return rows


if __name__ == "__main__":
    main()
