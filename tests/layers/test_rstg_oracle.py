"""Random RSTGs on random sequences against algorithm 1 as written: frame by frame, node by node, with a
memory per stage and node. In all forms that a sequence can have, whole and in pieces.
"""

from functools import partial

import pytest
import torch
from helpers.conv_cases import PATHS, on_path
from helpers.random_weights import randomize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.nn import GraphNorm, PairNorm

from rstg_pyg import RSTG, BiasReLU, JointLayerNorm
from rstg_pyg.graphs import join_sequences

SETTINGS = dict(
    num_rounds=st.integers(1, 3),
    time_stages=st.sampled_from(["all", "all", "last", "none", [0]]),
    space_stages=st.sampled_from([True, True, True, False]),
    cell=st.sampled_from(["lstm", "gru"]),
    residual=st.sampled_from(["time", "all_time", True, False]),
    shared_rounds=st.booleans(),
    in_norm=st.sampled_from([None, JointLayerNorm, GraphNorm, "layer_norm"]),
    norm=st.sampled_from([None, None, JointLayerNorm, PairNorm, "instance_norm"]),
    after_aggr=st.sampled_from([None, None, BiasReLU, partial(BiasReLU, norm=GraphNorm)]),
    attention=st.sampled_from(["dot", "additive", None]),
    heads=st.sampled_from([1, 2]),
    pos_channels=st.sampled_from([0, 2]),
    num_node_types=st.sampled_from([1, 2]),
    edge_dim=st.sampled_from([None, 3]),
)
#: Values of nodes and edges, and their dimensions for one frame.
DIMS = {"pos": 2, "node_type": 1, "edge_attr": 2, "edge_weight": 1}


class Sequences:
    """Nodes ``[B, T, N, 4]``, of which some are absent, and the graph and the values of every frame.

    Args:
        shared: Whether one graph serves all frames.
        over: What values of nodes and edges are of: ``()`` (all frames), ``"T"`` or ``"BT"``.
        masked: ``None``, ``"mask"`` or ``"lengths"``.
    """

    def __init__(self, model, clips, steps, nodes, shared, over, masked, seed):
        g = torch.Generator().manual_seed(seed)
        conv, self.shape, self.shared = (model.convs or [None])[0], (clips, steps, nodes), shared

        def randn(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.double)

        self.x = randn(clips, steps, nodes, model.in_channels)
        lead = {"": (), "T": (steps,), "BT": (clips, steps)}[over if shared else ""]
        graphs = [(torch.rand(nodes, nodes, generator=g) < 0.5).nonzero().t() for _ in range(steps)]
        self.graphs = graphs = graphs[:1] * steps if shared else graphs
        counts, self.values = [edges.size(1) for edges in graphs], {}
        if conv is not None and conv.pos_channels > 0:
            self.values["pos"] = randn(*lead, nodes, 2)
        if conv is not None and conv.num_node_types > 1:
            self.values["node_type"] = torch.randint(2, (nodes,), generator=g)
        if conv is not None and conv.edge_dim is not None:
            attrs = [randn(count, 3) for count in counts]
            self.values["edge_attr"] = randn(*lead, counts[0], 3) if shared else attrs
        if conv is not None and seed % 2:
            weights = [randn(count).abs() for count in counts]
            self.values["edge_weight"] = randn(*lead, counts[0]).abs() if shared else weights
        self.mask, self.how = torch.ones(self.shape, dtype=torch.bool), {}
        if masked == "mask":
            self.mask = torch.rand(self.shape, generator=g) < 0.6
            self.how = {"mask": self.mask}
        elif masked == "lengths":
            lengths = torch.randint(steps + 1, (clips,), generator=g)
            self.mask = (torch.arange(steps) < lengths.view(-1, 1))[..., None].expand(self.shape)
            self.how = {"lengths": lengths.tolist()}

    def at(self, name, b, t):
        """A value of one frame of one clip."""
        value = self.values[name]
        if isinstance(value, list):
            return value[t]
        return value.expand(*self.shape[:2], *value.shape[value.dim() - DIMS[name] :])[b, t]

    def frames(self, b):
        """A clip as a list of ``Data``, of the nodes that are there."""
        for t in range(self.shape[1]):
            values = {name: self.at(name, b, t) for name in self.values}
            data = Data(x=self.x[b, t], edge_index=self.graphs[t], **values)
            data.track = torch.arange(self.shape[2])
            yield data.subgraph(self.mask[b, t])

    def edges_there(self):
        """Which edges have both ends, in every frame of every clip."""
        for present in self.mask:
            for here, edges in zip(present, self.graphs):
                yield here[edges[0]] & here[edges[1]]

    def call(self, model, first=0, last=None, state=None, **kwargs):
        """The model on a piece of the sequences as ``[B, T, N, C]``."""
        part, values = slice(first, last), {}
        for name, value in self.values.items():
            over = value.dim() - DIMS[name] if torch.is_tensor(value) else 1
            values[name] = value[part] if over == 1 else value[:, part] if over == 2 else value
        how = {name: value[:, part] for name, value in self.how.items() if name == "mask"}
        if "lengths" in self.how:
            size = self.x[:, part].size(1)
            how["lengths"] = [min(max(n - first, 0), size) for n in self.how["lengths"]]
        edges = self.graphs[0] if self.shared else self.graphs[part]
        how |= kwargs
        return model(self.x[:, part], edges, state=state, return_state=True, **values, **how)

    def rows(self, model, **kwargs):
        """The model on the rows of a PyG batch."""
        lists = [list(self.frames(b)) for b in range(self.shape[0])]
        batch = join_sequences(lists, node_id="track")
        values = {name: batch[name] for name in self.values}
        return model(batch.x, batch.edge_index, node=batch.node, batch=batch.batch, **values, **kwargs)


def by_hand(model, frames):
    """Algorithm 1 as written for one clip: nodes, and the attention of each frame and round."""
    memory, outs, seen, branches = {}, [], [], model.residual is True

    def time_stage(key, cell, norm, v, names):
        if len(names) == 0:
            return v
        z, rows = (v if norm is None else norm(v)), []
        kind = torch.nn.LSTMCell if cell.mode == "LSTM" else torch.nn.GRUCell
        step = kind(cell.input_size, cell.hidden_size).double()
        step.load_state_dict({k.removesuffix("_l0"): w for k, w in cell.state_dict().items()})
        for row, name in zip(z, names):
            memory[key, name] = new = step(row.view(1, -1), memory.get((key, name)))
            rows.append((new[0] if isinstance(new, tuple) else new).view(-1))
        adds = {"time": key != "last", "all_time": True}.get(model.residual, norm is not None)
        return v + torch.stack(rows) if adds else torch.stack(rows)

    for data in frames:
        v, names = data.x, data.track.tolist()
        inputs = {k: data[k] for k in DIMS if k in data}
        v = v if model.lin_in is None else v @ model.lin_in.weight.t() + model.lin_in.bias
        if model.in_norm is not None and len(names) > 0:
            v = model.in_norm(v, torch.zeros(len(names), dtype=torch.long))
        for k in range(model.num_rounds):
            if k in model.time_rounds:
                i = 0 if model.shared_rounds else model.time_rounds.index(k)
                norm = model.cell_norms[i] if branches else None
                v = time_stage(k, model.cells[i], norm, v, names)
            if model.space_stages:
                i = 0 if model.shared_rounds else k
                z = model.conv_norms[i](v) if branches else v
                z, (_, alpha) = model.convs[i](
                    z, data.edge_index, return_attention_weights=True, **inputs
                )
                seen.append(alpha)
                v = v + z if branches else z
        if model.last_cell is not None:
            norm = model.last_norm if branches else None
            v = time_stage("last", model.last_cell, norm, v, names)
        outs.append(model.out_norm(v) if branches else v)
    return torch.cat(outs), seen


#: The usual form, on all nodes in all frames of more than one clip: what draws seldom come to.
USUAL = dict(
    num_rounds=2, time_stages="all", space_stages=True, cell="lstm", residual="time",
    shared_rounds=True, in_norm=None, norm=None, after_aggr=None, attention="dot", heads=2,
    pos_channels=2, num_node_types=2, edge_dim=3,
)  # fmt: skip
CALL = dict(in_channels=4, sizes=(3, 2, 4), shared=True, masked=None, cut=1, seed=1)


@pytest.mark.slow
@example(options=USUAL, over="", path="plain", **CALL)
@example(options={**USUAL, "shared_rounds": False}, over="T", path="fast", **CALL)
@example(options={**USUAL, "residual": "all_time"}, over="T", path="fast", **CALL)
@example(options={**USUAL, "residual": True}, over="BT", path="fast in small blocks", **CALL)
@example(options=USUAL, over="BT", path="plain", **{**CALL, "sizes": (2, 4, 5), "masked": "mask"})
@example(options=USUAL, over="BT", path="plain", **{**CALL, "sizes": (3, 3, 4)})
@settings(max_examples=100, deadline=None)
@given(
    options=st.fixed_dictionaries(SETTINGS),
    in_channels=st.sampled_from([4, 6]),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
    shared=st.booleans(),
    over=st.sampled_from(["", "T", "BT"]),
    masked=st.sampled_from([None, "mask", "lengths"]),
    cut=st.integers(1, 3),
    path=st.sampled_from(PATHS),
    seed=st.integers(0, 1000),
)
def test_rstg(options, in_channels, sizes, shared, over, masked, cut, path, seed):
    if options["time_stages"] == "none":
        options["space_stages"] = True
    torch.manual_seed(seed)
    model = randomize(RSTG(in_channels, 6, **options).double()).eval()
    case = Sequences(model, *sizes, shared, over, masked, seed)
    clips, steps, _ = sizes
    expected, attention = zip(*(by_hand(model, case.frames(b)) for b in range(clips)))
    expected, rounds = torch.cat(expected), len(model.convs) and model.num_rounds
    with on_path(path):
        out, state = case.call(model)
        torch.testing.assert_close(out[case.mask], expected)
        assert (out[~case.mask] == 0).all()
        rows, alphas = case.rows(model, return_attention_weights=True)
        torch.testing.assert_close(rows, expected)
        _, of_edges = case.call(model, return_attention_weights=True)[0::2]
        assert len(alphas) == len(of_edges) == rounds
        for k in range(rounds):  # frame by frame, in the order of the edges
            frames = [alpha for clip in attention for alpha in clip[k::rounds]]
            torch.testing.assert_close(alphas[k], torch.cat(frames))
            found = of_edges[k] if shared else list(zip(*of_edges[k]))  # by clip, then by frame
            found = [found[b][t] for b in range(clips) for t in range(steps)]
            for alpha, wanted, there in zip(found, frames, case.edges_there()):
                torch.testing.assert_close(alpha[there], wanted)
                assert (alpha[~there] == 0).all()
        if cut < steps:
            first, middle = case.call(model, 0, cut)
            second, last = case.call(model, cut, None, middle)
            torch.testing.assert_close(torch.cat([first, second], dim=1), out)
            torch.testing.assert_close(last, state)


@settings(max_examples=30, deadline=None)
@given(
    options=st.fixed_dictionaries(SETTINGS),
    masked=st.sampled_from([None, "mask"]),
    sizes=st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(2, 4)),
    seed=st.integers(0, 1000),
)
def test_rstg_is_causal_and_treats_clips_by_themselves(options, masked, sizes, seed):
    if options["time_stages"] == "none":
        options["space_stages"] = True
    torch.manual_seed(seed)
    model = randomize(RSTG(4, 6, **options).double()).eval()
    case = Sequences(model, *sizes, True, "", masked, seed)
    out, _ = case.call(model)
    clips, steps, _ = sizes
    b, t = seed % clips, seed % steps
    case.x = case.x.clone()
    case.x[b, t] += 1.0
    other, _ = case.call(model)
    same = torch.ones(clips, steps, dtype=torch.bool)
    same[b, t:] = False
    torch.testing.assert_close(other[same], out[same])
