"""Strategies of fine-tuning in one table: RoBERTa's recipe, SMART, FreeLB, ALICE, HIRE, MT-DNN, ensembles, plain.

    python eval/compare_strategies.py --config eval/compare_strategies_smoke.yaml --out out/strategies
    python eval/compare_strategies.py --model MODEL --tasks rte,mrpc --data_dir DATA --seeds 3 --out OUT

Liu et al. 2019; Jiang et al. 2020; Zhu et al. 2020; Pereira et al. 2020; Xu et al. 2019; Liu et al. 2019 (MT-DNN). The
same model, tasks and seeds; each score with its interval, a paired test against plain, and the time in multiples of
plain's. An encoder-decoder also takes t5 (--strategies plain t5). Writes strategies.json, strategies.csv and in a
folder for each strategy what hfssl glue writes. The smoke takes some minutes on two cores and says nothing. Expect
that few differences on small dev sets are distinguishable from noise, and that what perturbs embeddings (SMART, FreeLB,
ALICE) costs several passes of an update. A study that was stopped goes on where it was with the same command.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.finetuning.arguments import LoopArguments
from hfssl.studies.strategies import StrategyStudyArguments, compare_strategies, strategies_table


@exits_on_bad_input
def main(argv=None):
    args, loop = parse_config(StrategyStudyArguments, LoopArguments, argv=argv)
    rows, notes = compare_strategies(args, loop)
    Console().print(strategies_table(rows, notes, args.model))
    return rows


if __name__ == "__main__":
    main()
