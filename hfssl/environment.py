"""`hfssl env`: what a bug report should say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from importlib.util import find_spec

from hfssl import __version__

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "kornia",
    "scikit-learn", "scipy", "matplotlib", "huggingface_hub",
)  # fmt: skip
OPTIONAL = {
    "tensorboard": "--report_to tensorboard",
    "trackio": "--report_to trackio",
    "wandb": "--report_to wandb",
    "deepspeed": "recipes/accelerate_configs/deepspeed.yaml",
}


def describe_environment() -> dict[str, str]:
    """Versions, devices and what is missing, as lines of text. Holds no secret and no path of the user's."""
    import torch

    rows = {"hfssl": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "MISSING: pip install hfssl installs it"
    rows["cpu"] = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    count = torch.cuda.device_count()
    rows["gpu"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(count)) if count else "none, training runs on the CPU"
    )
    for name, use in OPTIONAL.items():
        if find_spec(name) is None:
            rows[name] = f"not installed; needed for {use}"
    rows["hub"] = "offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else "online"
    return rows
