"""Models whose weights differ everywhere, and files of them."""

import timm
import torch

TINY = {"layers": (1, 1), "width": 32, "num_classes": 5}
CIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def randomise(model, seed):
    """Weights and statistics that differ everywhere, so that a mix-up shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator) * 0.5
            value.copy_(drawn + 0.5 if "running_var" in name else drawn - 0.25)
    return model.eval()


def make(name, seed, **options):
    return randomise(timm.create_model(name, **options), seed)


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))


def assert_same(source, target, x=None):
    x = images() if x is None else x
    with torch.no_grad():
        torch.testing.assert_close(source(x), target(x), rtol=0, atol=0)
