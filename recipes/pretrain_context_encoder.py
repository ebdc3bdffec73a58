"""Inpainting by a context encoder: what stood in the hidden part of an image? (Pathak et al. 2016).

    accelerate launch recipes/pretrain_context_encoder.py --config recipes/smoke/context_encoder.yaml --output_dir OUT
    hfssl inpaint out/context-encoder-tiny-cpu photo.jpg --mask center --out out/painted

Any timm backbone sees the image without its middle, some squares or a region of any form (`model.mask`); a bottleneck
and a decoder paint it, by the squared error and, unless `model.adversarial_weight` is 0, what a discriminator thinks of
it. Both players learn in the one trainer: see the docstring of hfssl/models/modeling_context_encoder.py. What is saved
loads with AutoModel (the encoder), AutoModelForPreTraining (with `inpaint`) and AutoModelForImageClassification, also
where hfssl is not installed (trust_remote_code=True). What was learned: eval/run_probe.py --model OUTPUT_DIR ...
Expected: see the table in recipes/README.md, which names the hardware, the time and the accuracy of each YAML.
"""

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import Augmentation, PlainAugmentationArguments
from hfssl.data.collators import TwoViewCollator
from hfssl.data.image_masks import MaskCollator
from hfssl.data.images import ImageArguments, ResidentArguments, ResidentImages, open_images
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.models import ContextEncoderConfig, ContextEncoderForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_probe import OnlineArguments, OnlineProbe


@exits_on_bad_input
def main(argv=None):
    config, images, place, augmentation, online, args = parse_config(
        ImageArguments,
        ResidentArguments,
        PlainAugmentationArguments,
        OnlineArguments,
        PretrainingArguments,
        model=ContextEncoderConfig,
        argv=argv,
    )
    if config.adversarial_weight and args.max_grad_norm:
        raise InputError("a clipped gradient norm ties the two players together: --max_grad_norm 0, or no adversary")
    train = open_images(images)
    views = Augmentation(config.image_size, config.image_mean, config.image_std, **vars(augmentation))
    if place.resident:
        train, args.dataloader_num_workers = ResidentImages(train, args.device), 0
    collator = TwoViewCollator(views, seed=args.seed, views=1, resident=getattr(train, "pixels", None))
    collator = MaskCollator(collator, config.mask, config.image_size, config.overlap, args.seed)

    set_seed(args.seed)
    model = build_model(ContextEncoderForPreTraining, config)
    trainer = PretrainingTrainer(model=model, args=args, train_dataset=train, data_collator=collator)
    if online.online_knn:
        OnlineProbe(train, online, args.seed).attach(trainer, views=1)
    return run(trainer)


if __name__ == "__main__":
    main()
