"""Images on which operations are compared."""

import torch


def pictures(count=6, size=33):
    """Noise, with one grey image, one without colour, and one where two channels tie."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0] = 0.5
    images[1, 1:] = images[1, :1]
    if count > 2:
        images[2, 1, :9] = images[2, 0, :9]
    return images


def assert_each(ours, operation, images, *parameters, tolerance):
    """Ours, of the batch, is within the tolerance of the operation on each image with its parameters."""
    expected = [operation(image, *(p.tolist() for p in ps)) for image, *ps in zip(images, *parameters, strict=True)]
    assert (ours - torch.stack(expected)).abs().max().item() <= tolerance
