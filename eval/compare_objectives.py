"""SimCLR, CPC, colorization, inpainting, co-training in one table: the same net, images, images seen, seeds and probe.

    python eval/compare_objectives.py --config eval/compare_objectives_smoke.yaml --out out/table
    python eval/compare_objectives.py --config eval/compare_objectives_cifar10.yaml --train_file TRAIN --test_file TEST

Chen et al. 2020; van den Oord et al. 2018; Larsson et al. 2016, Zhang et al. 2016 and the lecture's loss; Pathak et al.
2016; Ji et al. 2019, which is the lecture's co-training at beta 0. Beside them random inits of the same net (for CPC on
patches, for colorization on the lightness), raw pixels, and the net trained on the labels. Writes objectives.json,
objectives.csv and a figure. The smoke takes some minutes on two cores and says nothing; on CIFAR-10 an arm takes some
minutes a seed on one core. A study that was stopped goes on where it was with the same command.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.studies.objectives import ObjectiveArguments, main_threads, run_objectives
from hfssl.studies.objectives_report import objectives_table, painting_table


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(ObjectiveArguments, argv=argv)
    main_threads()
    rows = run_objectives(args)
    console = Console()
    console.print(objectives_table(rows))
    if any("painting" in row for row in rows):
        console.print(painting_table(rows))
    return rows


if __name__ == "__main__":
    main()
