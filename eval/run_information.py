"""Twelve estimators of mutual information beside the truth and ln N, on distributions whose information is known.

    python eval/run_information.py --grid small --out out/mi
    python eval/run_information.py --grid gaussian128 --out out/mi128

Gaussians (truth -(d/2) ln(1 - rho^2)), a staircase of 2 to 10 nats (Poole et al. 2019), discrete channels; gaussian128
is the table of McAllester and Stratos 2020 (d = 128, rho = 0.5, N = 128), with settings selected on held-out loss and
not, as there, by closeness to the truth. Other grids: full, staircase, channel. Writes information.json, a CSV file and
a figure. The same command goes on where it was stopped, and started several times the processes share the jobs.
Expected of gaussian128: InfoNCE under ln N = 4.85, the difference of entropies (doe) within 5 % of the truth, 18.41.
The times are in eval/README.md.
"""

import torch
from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.studies.information_grid import InformationGridArguments, information_tables, run_information_grid
from hfssl.training.checkpoint import check_writable


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(InformationGridArguments, argv=argv)
    check_writable(args.out, "--out")
    torch.set_num_threads(1)  # the matrices are small: a second thread costs more than it saves
    rows = run_information_grid(args)
    for table in information_tables(rows):
        Console().print(table)
    return rows


if __name__ == "__main__":
    main()
