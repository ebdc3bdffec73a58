"""Which pairs of augmentations teach SimCLR something: the matrix of Chen et al. 2020, figure 5.

    python eval/compare_compositions.py --config eval/compare_compositions_smoke.yaml --output_dir out/compositions

One training and two probes a cell; each transformation alone on the diagonal. The settings of the trainings are those
of recipes/pretrain_simclr.py. The same command goes on where it was stopped, and started several times (one GPU each)
the processes share the cells. Written are compositions.json and, for the linear probe and kNN, a CSV file and a heat
map. The smoke size takes under a minute on two cores and shows that everything works, not which cell is best. Expected
of real sizes: crop with colour is the best pair (section 3.1).
"""

from hfssl.config import parse_config
from hfssl.data.images import ImageArguments
from hfssl.errors import exits_on_bad_input
from hfssl.models import SimCLRConfig
from hfssl.studies.compositions import CompositionArguments, compare_compositions
from hfssl.training import PretrainingArguments


@exits_on_bad_input
def main(argv=None):
    config, images, settings, args = parse_config(
        ImageArguments,
        CompositionArguments,
        PretrainingArguments,
        model=SimCLRConfig,
        argv=argv,
    )
    return compare_compositions(config, images, settings, args)


if __name__ == "__main__":
    main()
