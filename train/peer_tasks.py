"""Four small tasks on generated or built-in data, each drawn from a seed.

A task knows its data, its loss and its score; ``peers.py`` has the models.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch_geometric import seed_everything
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import coalesce, negative_sampling, to_undirected


class Task:
    """What all tasks have.

    Attributes:
        title: Its name in tables.
        kind: Which models fit it, see ``peers.py``.
        metric: What :meth:`score` gives.
        better: 1 if a higher score is better, -1 if a lower one is.
        in_channels: Channels of its nodes.
        out_channels: Channels that a model gives.
        epochs: How often a model sees the training data.
    """

    title = kind = metric = ""
    better = 1
    in_channels = out_channels = epochs = 0

    def losses(self, model: torch.nn.Module) -> Iterator[Tensor]:
        """The losses of one epoch; after each, the model takes a step."""
        raise NotImplementedError

    def score(self, model: torch.nn.Module, split: str) -> float:
        """The score on ``"val"`` or ``"test"``."""
        raise NotImplementedError


def citations(seed: int, nodes: int, classes: int, degree: float, topic: float) -> Data:
    """A graph like one of citing articles: most edges stay within a class, and of an article's words
    a few more belong to its class than chance would have it.

    Args:
        seed: Which of them.
        nodes: Number of articles.
        classes: Number of classes.
        degree: Edges of an article, on average; four of five stay within the class.
        topic: Which share of an article's words belongs to its class (the rest is any word).

    Returns:
        ``x [N, 300]`` (which words it has, normalized), ``edge_index [2, E]`` (undirected), ``y [N]``.
    """
    generator = torch.Generator().manual_seed(seed)
    words, own, drawn = 300, 30, 20
    y = torch.randint(classes, (nodes,), generator=generator)
    # Words: those of a class are 30 of its own, drawn anew for every graph.
    vocabulary = torch.stack([torch.randperm(words, generator=generator)[:own] for _ in range(classes)])
    of_class = vocabulary[y].gather(1, torch.randint(own, (nodes, drawn), generator=generator))
    of_any = torch.randint(words, (nodes, drawn), generator=generator)
    chosen = torch.where(torch.rand(nodes, drawn, generator=generator) < topic, of_class, of_any)
    x = torch.zeros(nodes, words).scatter_(1, chosen, 1.0)
    # Edges: popular articles are cited more often.
    popular = torch.rand(nodes, generator=generator).pow(-0.4)
    count = int(nodes * degree / 2)
    source = torch.multinomial(popular, count, replacement=True, generator=generator)
    target = torch.multinomial(popular, count, replacement=True, generator=generator)
    inside = torch.rand(count, generator=generator) < 0.8
    for c in range(classes):
        rows = (inside & (y[source] == c)).nonzero().view(-1)
        members = (y == c).nonzero().view(-1)
        pick = torch.multinomial(popular[members], len(rows), replacement=True, generator=generator)
        target[rows] = members[pick]
    keep = source != target
    edge_index = to_undirected(torch.stack([source, target])[:, keep], num_nodes=nodes)
    return Data(x=x / x.sum(1, keepdim=True), edge_index=edge_index, y=y)


class Nodes(Task):
    """Classes of the articles of a citation-like graph, with twenty labels of each."""

    title, kind, metric, epochs = "classes of nodes", "graph", "accuracy", 100

    def __init__(self, seed: int):
        self.data = citations(seed, nodes=800, classes=7, degree=4, topic=0.17)
        self.in_channels, self.out_channels = self.data.num_features, 7
        order, y = torch.randperm(800, generator=torch.Generator().manual_seed(seed)), self.data.y
        train = torch.cat([order[y[order] == c][:20] for c in range(7)])
        rest = order[~torch.isin(order, train)]
        val, test = rest.tensor_split([(len(rest) - 1) // 2])
        parts = {"train": train, "val": val, "test": test}
        self.masks = {part: torch.isin(torch.arange(800), nodes) for part, nodes in parts.items()}

    def losses(self, model: torch.nn.Module) -> Iterator[Tensor]:
        """"""
        mask = self.masks["train"]
        yield F.cross_entropy(model(self.data.x, self.data.edge_index)[mask], self.data.y[mask])

    def score(self, model: torch.nn.Module, split: str) -> float:
        """"""
        right = model(self.data.x, self.data.edge_index).argmax(-1) == self.data.y
        return float(right[self.masks[split]].float().mean())


class Digits(Task):
    """Written digits as graphs: the inked pixels, each joined with the five nearest."""

    title, kind, metric, epochs = "digits as graphs", "pooled", "accuracy", 20
    in_channels, out_channels = 3, 10

    def __init__(self, seed: int):
        images = load_digits()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images.target), generator=generator)[:1200]
        graphs = [_digit(torch.tensor(images.images[i]), int(images.target[i])) for i in order.tolist()]
        torch.manual_seed(seed)
        self.batches = {
            "train": list(DataLoader(graphs[:400], batch_size=20, shuffle=True)),
            "val": list(DataLoader(graphs[400:700], batch_size=300)),
            "test": list(DataLoader(graphs[700:], batch_size=500)),
        }

    def losses(self, model: torch.nn.Module) -> Iterator[Tensor]:
        """"""
        for i in torch.randperm(len(self.batches["train"])).tolist():
            batch = self.batches["train"][i]
            yield F.cross_entropy(model(batch.x, batch.edge_index, batch.batch), batch.y)

    def score(self, model: torch.nn.Module, split: str) -> float:
        """"""
        (batch,) = self.batches[split]
        right = model(batch.x, batch.edge_index, batch.batch).argmax(-1) == batch.y
        return float(right.float().mean())


def _digit(image: Tensor, label: int) -> Data:
    """One image ``[8, 8]`` of values 0 to 16: brightness of the inked pixels, and their positions from
    where their middle is.
    """
    row, column = (image > 7).nonzero(as_tuple=True)
    pos = torch.stack([row, column], dim=1) / 7.0
    distance = torch.cdist(pos, pos).fill_diagonal_(float("inf"))
    nearest = distance.topk(min(5, len(pos) - 1), largest=False).indices
    target = torch.arange(len(pos)).repeat_interleave(nearest.size(1))
    x = torch.cat([image[row, column].float().unsqueeze(1) / 16, pos - pos.mean(0)], dim=1)
    return Data(x=x, edge_index=torch.stack([nearest.flatten(), target]), y=torch.tensor([label]))


class Links(Task):
    """Edges of a citation-like graph that are kept from the model: a tenth for choosing, a fifth for
    testing.
    """

    title, kind, metric, epochs = "missing links", "graph", "AUC", 100
    out_channels = 32

    def __init__(self, seed: int):
        data = citations(seed + 1000, nodes=600, classes=7, degree=6, topic=0.4)
        self.in_channels, self.x = data.num_features, data.x
        edges = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
        generator = torch.Generator().manual_seed(seed)
        edges = edges[:, torch.randperm(edges.size(1), generator=generator)]
        count = edges.size(1)
        val, test, train = edges.split([count // 10, count // 5, count - count // 10 - count // 5], 1)
        self.positive = {"train": train, "val": val, "test": test}
        self.edge_index = coalesce(torch.cat([train, train.flip(0)], dim=1))
        seed_everything(seed)  # PyG draws them with Python's generator
        self.negative = {
            split: negative_sampling(data.edge_index, 600, self.positive[split].size(1))
            for split in ("val", "test")
        }

    def losses(self, model: torch.nn.Module) -> Iterator[Tensor]:
        """"""
        positive = self.positive["train"]
        negative = negative_sampling(self.edge_index, len(self.x), positive.size(1))
        z = model(self.x, self.edge_index)
        logits = torch.cat([_products(z, positive), _products(z, negative)])
        yield F.binary_cross_entropy_with_logits(logits, _joined(positive, negative))

    def score(self, model: torch.nn.Module, split: str) -> float:
        """"""
        z, pairs = model(self.x, self.edge_index), (self.positive[split], self.negative[split])
        logits = torch.cat([_products(z, pair) for pair in pairs])
        return float(roc_auc_score(_joined(*pairs), logits))


def _products(z: Tensor, pairs: Tensor) -> Tensor:
    return (z[pairs[0]] * z[pairs[1]]).sum(-1)


def _joined(positive: Tensor, negative: Tensor) -> Tensor:
    return torch.cat([torch.ones(positive.size(1)), torch.zeros(negative.size(1))])


class Forecast(Task):
    """The next reading of every sensor of a network, in which what happens spreads along the edges."""

    title, kind, metric, better, epochs = "forecast of sensors", "sequence", "squared error", -1, 3
    in_channels = out_channels = 1
    window, batch, warm_up = 12, 8, 4

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        sensors, steps = 16, 600
        pos = torch.rand(sensors, 2, generator=generator)
        distance = torch.cdist(pos, pos).fill_diagonal_(float("inf"))
        nearest = distance.topk(2, largest=False).indices
        target = torch.arange(sensors).repeat_interleave(2)
        self.edge_index = to_undirected(torch.stack([nearest.flatten(), target]), num_nodes=sensors)
        source, target = self.edge_index
        degree = torch.zeros(sensors).index_add_(0, target, torch.ones(source.numel()))
        # A sensor keeps a part of its level and gets a part of its neighbors'; the rest is new.
        values = torch.zeros(steps, sensors)
        for t in range(1, steps):
            heard = torch.zeros(sensors).index_add_(0, target, values[t - 1, source]) / degree
            event = torch.randn(sensors, generator=generator)
            event = event * (torch.rand(sensors, generator=generator) < 0.3)
            values[t] = 0.2 * values[t - 1] + 0.78 * heard + event
        values = (values - values.mean()) / values.std()
        first, second = int(0.6 * steps), int(0.75 * steps)
        self.values = {"train": values[:first], "val": values[first:second], "test": values[second:]}

    def _error(self, model: torch.nn.Module, clips: Tensor) -> Tensor:
        """Of clips ``[B, T + 1, N]``."""
        forecast = model(clips[:, :-1].unsqueeze(-1), self.edge_index).squeeze(-1)
        return (forecast - clips[:, 1:])[:, self.warm_up :].square().mean()

    def losses(self, model: torch.nn.Module) -> Iterator[Tensor]:
        """"""
        clips = self.values["train"].unfold(0, self.window + 1, 2).transpose(1, 2)
        for rows in torch.randperm(len(clips)).split(self.batch):
            yield self._error(model, clips[rows])

    def score(self, model: torch.nn.Module, split: str) -> float:
        """"""
        clips = self.values[split].unfold(0, self.window + 1, self.window - self.warm_up)
        return float(self._error(model, clips.transpose(1, 2)))


TASKS = {"nodes": Nodes, "digits": Digits, "links": Links, "forecast": Forecast}
