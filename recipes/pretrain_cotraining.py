"""Deep co-training: discrete codes of two views that tell of each other (the lecture; Ji et al. 2019, IIC).

    accelerate launch recipes/pretrain_cotraining.py --config recipes/cotraining_digits.yaml
    hfssl codes out/cotraining-digits --dataset builtin:digits

Maximises I(z_x; z_y) - beta H(z_x), on any timm backbone, over the batch of all processes: `model.beta` is the price of
memory, `model.overclustering_codes` adds IIC's finer heads, `model.inner` says how P_Psi is found (exact, ema, adam:k).
The log has the entropy and the information of the codes, in nats, and how far a batch underrates the entropy. What is
saved loads with AutoModel (the encoder), AutoModelForPreTraining (with `codes`) and AutoModelForImageClassification,
also where hfssl is not installed (trust_remote_code=True). What was learned: eval/run_codes.py, eval/run_probe.py.
Expected: see eval/README.md, which names the time and the accuracy on digits.
"""

import logging

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import Augmentation, AugmentationArguments
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageArguments, ResidentArguments, ResidentImages, open_images
from hfssl.errors import exits_on_bad_input
from hfssl.models import CoTrainingConfig, CoTrainingForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_probe import OnlineArguments, OnlineProbe

logger = logging.getLogger("hfssl.pretrain_cotraining")


@exits_on_bad_input
def main(argv=None):
    config, images, place, augmentation, online, args = parse_config(
        ImageArguments,
        ResidentArguments,
        AugmentationArguments,
        OnlineArguments,
        PretrainingArguments,
        model=CoTrainingConfig,
        argv=argv,
    )
    train = open_images(images)
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    if place.resident:
        train, args.dataloader_num_workers = ResidentImages(train, args.device), 0
    collator = TwoViewCollator(views, seed=args.seed, resident=getattr(train, "pixels", None))
    batch = args.train_batch_size * args.world_size
    if max(config.head_sizes) > batch:
        logger.warning("%d codes cannot all be used by a batch of %d images", max(config.head_sizes), batch)

    set_seed(args.seed)
    trainer = PretrainingTrainer(
        model=build_model(CoTrainingForPreTraining, config),
        args=args,
        train_dataset=train,
        data_collator=collator,
    )
    if online.online_knn:
        OnlineProbe(train, online, args.seed).attach(trainer)
    return run(trainer)


if __name__ == "__main__":
    main()
