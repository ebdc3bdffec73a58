"""lightly's SimCLR on the net, images, steps and optimizer of one of our recipes: what `hfssl probe` sets ours beside.

    python benchmarks/simclr_quality.py --config recipes/simclr_tiny_cpu.yaml --image_path TRAIN --output_dir OUT
    hfssl probe OUT --train_file TRAIN --test_file TEST

lightly's transform (its CIFAR-10 benchmark's: colour strength 0.5, no blur), projection head and NTXentLoss in a plain
loop. The net starts from the weights that the recipe's has under the same seed. What is saved is the encoder alone.
"""

import time

import torch
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm
from transformers import get_scheduler, set_seed

from hfssl.benchmarking import write_json
from hfssl.config import build_model, parse_config
from hfssl.data.augmentation import AugmentationArguments
from hfssl.data.images import ImageArguments, ResidentArguments, load_images
from hfssl.data.sampling import single_threaded_worker
from hfssl.errors import exits_on_bad_input
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments


class Views(torch.utils.data.Dataset):
    """lightly's two views of each image."""

    def __init__(self, images, size):
        from lightly.transforms import SimCLRTransform

        self.images, self.transform = images, SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.stack(self.transform(to_pil_image(self.images[index]["image"])))


@exits_on_bad_input
def main(argv=None):
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    config, images, *_, args = parse_config(
        ImageArguments, ResidentArguments, AugmentationArguments, PretrainingArguments, model=SimCLRConfig, argv=argv
    )
    set_seed(args.seed)
    encoder, criterion = build_model(SimCLRForPreTraining, config).simclr, NTXentLoss(config.logit_temperature)
    head = SimCLRProjectionHead(encoder.hidden_size, encoder.hidden_size, config.projection_dim)
    decay = {"params": [w for m in (encoder, head) for w in m.parameters() if w.ndim > 1]}
    plain = {"params": [w for m in (encoder, head) for w in m.parameters() if w.ndim < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decay, plain], args.learning_rate, weight_decay=args.weight_decay)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(args.max_steps), args.max_steps)
    views = Views(load_images(images.image_path, split=images.image_split), config.image_size)
    loader = DataLoader(
        views, args.per_device_train_batch_size, shuffle=True, drop_last=True, num_workers=args.dataloader_num_workers,
        worker_init_fn=single_threaded_worker,
    )  # fmt: skip
    began, left = time.perf_counter(), tqdm(total=args.max_steps)
    while left.n < args.max_steps:
        for batch, _ in zip(loader, range(args.max_steps - left.n), strict=False):
            z_1, z_2 = (head(encoder(view).pooler_output) for view in batch.unbind(1))
            optimizer.zero_grad()
            loss = criterion(z_1, z_2)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            left.update()
    encoder.save_pretrained(args.output_dir)
    rows = [{"loss": loss.item(), "seconds": time.perf_counter() - began, "steps": args.max_steps, "seed": args.seed}]
    write_json(f"{args.output_dir}/training.json", rows)


if __name__ == "__main__":
    main()
