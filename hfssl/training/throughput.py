"""How fast training runs: tokens a second, the share of the arithmetic peak, the share of time spent waiting for data.

Nothing here asks the device for a value, so that it never waits for it.
"""

from __future__ import annotations

import functools
import statistics
import time

import torch


class Meter:
    """Counts between two log lines.

    Args:
        flops_per_unit: of training (forward and backward) for one token; None leaves the utilisation out.
        peak: floating-point operations a second that the device reaches; a function, called at the first reading.
    """

    def __init__(self, flops_per_unit: float | None = None, peak=None):
        self.flops_per_unit, self._peak = flops_per_unit, peak
        self.unit, self._units, self._waited, self._since = "samples", 0, 0.0, time.perf_counter()

    def start(self) -> float:
        """Begins to count; returns the time."""
        self._units, self._waited, self._since = 0, 0.0, time.perf_counter()
        return self._since

    def count(self, unit: str, units: int) -> None:
        self.unit, self._units = unit, self._units + units

    def waited(self, seconds: float) -> None:
        """Of the time since the last reading, what was spent waiting for data."""
        self._waited += seconds

    def pause(self, seconds: float) -> None:
        """Takes out what is no training: evaluation, saving."""
        self._since += seconds

    def read(self, processes: int = 1) -> dict[str, float]:
        """`<unit>_per_second` over all processes, `data_wait` (a share), `mfu` (a share); begins to count anew."""
        if not self._units:
            return {}
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rate = self._units / seconds
        found = {f"{self.unit}_per_second": round(rate * processes, 1), "data_wait": round(self._waited / seconds, 4)}
        if self.flops_per_unit and self._peak and self.unit == "tokens":
            found["mfu"] = round(rate * self.flops_per_unit / self._peak(), 4)
        self.start()
        return found


def training_flops_per_token(model, length: int, head_share: float = 1.0) -> float | None:
    """Floating-point operations of one token's training step, 6 N + 12 L d T (Chowdhery et al. 2022, appendix B).

    N counts the weights that are multiplied: embeddings are looked up and count only as the output head. The head is
    all that lies outside the base model: of BERT its transform, too.

    Args:
        length: tokens in a block, T.
        head_share: of the tokens that go through the head: 1 left to right, the masked share for BERT.

    Returns:
        None for a model that is no language model.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    config = model.config
    if head is None or not hasattr(config, "num_hidden_layers"):
        return None
    looked_up = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    } | {id(head.weight)}  # fmt: skip
    base = {id(weight) for weight in model.base_model.parameters()}
    multiplied = [weight for weight in model.parameters() if weight.ndim == 2 and id(weight) not in looked_up]
    body = sum(weight.numel() for weight in multiplied if id(weight) in base)
    outside = head.weight.numel() + sum(weight.numel() for weight in multiplied if id(weight) not in base)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    return 6 * (body + head_share * outside) + attention


@functools.cache
def matmul_peak(device: str, dtype: torch.dtype, size: int | None = None) -> float:
    """Floating-point operations a second of a large matrix product on this device: what is reachable, measured.

    The median of five products after one to warm up; a quarter of a second on a CPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    size = size or (8192 if on_gpu else 1024)
    generator = torch.Generator(device).manual_seed(0)  # its own: training's draws must not depend on this
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    times = []
    for _ in range(6):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        left @ right
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[1:])
