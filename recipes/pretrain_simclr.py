"""SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

    accelerate launch recipes/pretrain_simclr.py --config recipes/simclr_tiny_cpu.yaml --image_path TRAIN.parquet

Two augmented views of each image, any timm backbone, a projection head, NT-Xent over the batch of all processes; its
kin by `model.decoupled` (DCL) and `model.supervised` (SupCon), batches larger than the memory by `large_batch`. What
is saved loads with AutoModel (the encoder), AutoModelForPreTraining and AutoModelForImageClassification, also where
hfssl is not installed (trust_remote_code=True). What was learned: eval/run_probe.py --model OUTPUT_DIR --dataset ...
Expected: see the table in recipes/README.md, which names the hardware, the time and the accuracy of each YAML.
"""

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import Augmentation, AugmentationArguments
from hfssl.data.collators import LabelledCollator, TwoViewCollator
from hfssl.data.images import ImageArguments, ResidentArguments, ResidentImages, open_images
from hfssl.errors import exits_on_bad_input
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_information import OnlineInformation, OnlineInformationArguments
from hfssl.training.online_probe import OnlineArguments, OnlineProbe


@exits_on_bad_input
def main(argv=None):
    config, images, place, augmentation, online, shared, args = parse_config(
        ImageArguments,
        ResidentArguments,
        AugmentationArguments,
        OnlineArguments,
        OnlineInformationArguments,
        PretrainingArguments,
        model=SimCLRConfig,
        argv=argv,
    )
    train = open_images(images)
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    if place.resident:
        train, args.dataloader_num_workers = ResidentImages(train, args.device), 0
    collator = TwoViewCollator(views, seed=args.seed, resident=getattr(train, "pixels", None))
    if config.supervised:
        collator = LabelledCollator(collator, train)
    knn = OnlineProbe(train, online, args.seed) if online.online_knn else None
    information = OnlineInformation(train, views, shared, args.seed) if shared.information else None

    set_seed(args.seed)
    trainer = PretrainingTrainer(
        model=build_model(SimCLRForPreTraining, config),
        args=args,
        train_dataset=train,
        data_collator=collator,
    )
    if knn:
        knn.attach(trainer)
    if information:
        information.attach(trainer)
    return run(trainer)


if __name__ == "__main__":
    main()
