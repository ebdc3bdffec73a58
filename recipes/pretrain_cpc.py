"""CPC: predict which patch, view or frame belongs to what was seen (van den Oord et al. 2018; Hénaff et al. 2019).

    accelerate launch recipes/pretrain_cpc.py --config recipes/cpc_tiny_cpu.yaml --image_path TRAIN.parquet
    accelerate launch recipes/pretrain_cpc.py --config recipes/smoke/cpc_frames.yaml --frame_path FOLDER_OF_CLIPS

`model.objective: image` cuts an image into overlapping patches and predicts the rows to come; `pairs` is the lecture's
CPC on two views of an image or, with --frame_path, two frames of a clip. What is saved loads with AutoModel (the
encoder), AutoModelForPreTraining and AutoModelForImageClassification, also where hfssl is not installed
(trust_remote_code=True). What was learned: eval/run_probe.py --model OUTPUT_DIR --dataset ...
Expected: see the table in recipes/README.md, which names the hardware, the time and the accuracy of each YAML.
"""

import logging

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import Augmentation, AugmentationArguments
from hfssl.data.collators import TwoViewCollator
from hfssl.data.frames import FrameArguments, FramePairCollator, load_frames
from hfssl.data.images import ImageArguments, ResidentArguments, ResidentImages, open_images
from hfssl.data.patch_colors import PatchArguments, PatchColorCollator
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.models import CPCConfig, CPCForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_probe import OnlineArguments, OnlineProbe

logger = logging.getLogger("hfssl.pretrain_cpc")


@exits_on_bad_input
def main(argv=None):
    config, images, place, frames, augmentation, patches, online, args = parse_config(
        ImageArguments,
        ResidentArguments,
        FrameArguments,
        AugmentationArguments,
        PatchArguments,
        OnlineArguments,
        PretrainingArguments,
        model=CPCConfig,
        argv=argv,
    )
    if config.objective == "image" and frames.frame_path:
        raise InputError("--frame_path gives pairs of frames, which image CPC does not take: --model.objective pairs")
    if config.objective == "pairs" and patches.patch_color_drop:
        raise InputError("--patch_color_drop is for the patches of image CPC: leave it out or --model.objective image")
    if frames.frame_path and (place.resident or online.online_knn):
        raise InputError("--resident and --online_knn are for single images; frames are read as they are needed")
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    if frames.frame_path:
        train = load_frames(frames.frame_path, frames.max_gap)
        collator = FramePairCollator(train, views, args.seed, frames.min_gap, frames.max_gap)
    else:
        train = open_images(images)
        if place.resident:
            train, args.dataloader_num_workers = ResidentImages(train, args.device), 0
        count, pixels = 2 if config.objective == "pairs" else 1, getattr(train, "pixels", None)
        collator = TwoViewCollator(views, seed=args.seed, views=count, resident=pixels)
        if patches.patch_color_drop:
            collator = PatchColorCollator(collator, config.grid_size, patches.patch_color_drop, args.seed)

    set_seed(args.seed)
    model = build_model(CPCForPreTraining, config)
    trainer = PretrainingTrainer(model=model, args=args, train_dataset=train, data_collator=collator)
    if online.online_knn:
        OnlineProbe(train, online, args.seed).attach(trainer, views=2 if config.objective == "pairs" else 1)
    uniform = model.uniform_loss(args.train_batch_size * args.world_size)
    logger.info("If all scores were equal, the loss would be %.3f", uniform)
    return run(trainer)


if __name__ == "__main__":
    main()
