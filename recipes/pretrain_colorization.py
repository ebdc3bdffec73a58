"""Colorization: the colour of each pixel from the lightness (Larsson et al. 2016; Zhang et al. 2016).

    accelerate launch recipes/pretrain_colorization.py --config recipes/colorization_tiny_cpu.yaml --image_path TRAIN
    hfssl colorize out/colorization-tiny-cpu photo.jpg --out out/colored

Any timm backbone sees the lightness; hypercolumns and a small head say the colour, by one of three losses
(`model.color_loss`): hist_hc, histograms of hue and chroma (Larsson's); l2_ab, the lecture's; ce313, cells of Lab's
plane with rare colours counting more (Zhang's). What is saved loads with AutoModel (the encoder),
AutoModelForPreTraining (with `colorize`) and AutoModelForImageClassification, also where hfssl is not installed
(trust_remote_code=True). What was learned: eval/run_probe.py --model OUTPUT_DIR --dataset ...
Expected: see the table in recipes/README.md, which names the hardware, the time and the accuracy of each YAML.
"""

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import Augmentation, PlainAugmentationArguments
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageArguments, ResidentArguments, ResidentImages, open_images
from hfssl.data.pixel_points import PointArguments, PointCollator, look_at_colors
from hfssl.errors import exits_on_bad_input
from hfssl.models import ColorizationConfig, ColorizationForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_probe import OnlineArguments, OnlineProbe


@exits_on_bad_input
def main(argv=None):
    config, images, place, augmentation, points, online, args = parse_config(
        ImageArguments,
        ResidentArguments,
        PlainAugmentationArguments,
        PointArguments,
        OnlineArguments,
        PretrainingArguments,
        model=ColorizationConfig,
        argv=argv,
    )
    train = open_images(images)
    colors = look_at_colors(train)
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    if place.resident:
        train, args.dataloader_num_workers = ResidentImages(train, args.device), 0
    collator = TwoViewCollator(views, seed=args.seed, views=1, resident=getattr(train, "pixels", None))
    collator = PointCollator(collator, config.image_size, points, args.seed)

    set_seed(args.seed)
    model = build_model(ColorizationForPreTraining, config)
    if config.color_loss == "ce313":
        model.set_color_frequencies(colors.frequencies)
    trainer = PretrainingTrainer(model=model, args=args, train_dataset=train, data_collator=collator)
    if online.online_knn:
        OnlineProbe(train, online, args.seed).attach(trainer, views=1)
    return run(trainer)


if __name__ == "__main__":
    main()
