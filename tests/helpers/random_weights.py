import torch


def randomize(module, seed=0, std=1.0):
    """The module, with normally distributed parameters: after construction some are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * std)
    return module


def draw(*shape, seed=1, dtype=torch.double):
    """Normally distributed numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double).to(
        dtype
    )
