import torch


class Adapter(torch.nn.Module):
    """A layer around another one, as adapters for fine-tuning are: it has the weights of that one."""

    def __init__(self, lin):
        super().__init__()
        self.lin, self.weight, self.bias = lin, lin.weight, lin.bias

    def forward(self, x):
        return self.lin(x) + 1
