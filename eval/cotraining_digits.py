"""Co-training on digits: Hungarian accuracy beside k-means on pixels over seeds, and the collapse of the code at I/H.

    python eval/cotraining_digits.py --config recipes/cotraining_digits.yaml --output_dir out/cotraining-study

The trainings are those of recipes/pretrain_cotraining.py with the YAML's settings: --seeds of them with its beta, one
for each of --betas. Written are cotraining.json and cotraining.png: entropy and information of the codes over beta, on
the images and on a toy whose collapse is known exactly. The same command goes on where it was stopped, and started
several times the processes share the trainings. Expected: see eval/README.md, with the time.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.data.augmentation import Augmentation, AugmentationArguments
from hfssl.data.images import ImageArguments
from hfssl.errors import exits_on_bad_input
from hfssl.models import CoTrainingConfig
from hfssl.studies.cotraining import CoTrainingStudyArguments, run_cotraining_study, study_table
from hfssl.training import PretrainingArguments


@exits_on_bad_input
def main(argv=None):
    config, images, augmentation, settings, args = parse_config(
        ImageArguments,
        AugmentationArguments,
        CoTrainingStudyArguments,
        PretrainingArguments,
        model=CoTrainingConfig,
        argv=argv,
    )
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    record = run_cotraining_study(config, images, views, settings, args)
    Console().print(study_table(record))
    return record


if __name__ == "__main__":
    main()
