import torch


def randomize(module, seed=0):
    """The module, with normally distributed parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double))
    return module
