"""Every number of a published network has its place in ours, and a name."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.published_models import MODELS, random_variables, resnet

from rstg_pyg import (
    ChannelBatchNorm,
    RSTGBlock,
    VideoClassifier,
    ZeroInitNorm,
    official,
    published_arguments,
)
from rstg_pyg.backbones import I3D_KERNELS, SimpleConv
from rstg_pyg.published import BiasReLU


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_of_every_variable(name):
    model = MODELS[name]()
    values = random_variables(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
    same, report = official.convert(model, values)
    assert same is model and not model.training
    tensors, variables = model.state_dict(), official.model_variables(model)
    assert len({v.name for v in variables}) == len(variables) == len(values)
    for variable in variables:
        assert variable.name.startswith("tower/")
        back = variable.to_published(tensors).numpy()
        np.testing.assert_array_equal(back, values[variable.name], err_msg=variable.name)
    # Every number of the network comes from exactly one number of the file.
    ours = {key: t for key, t in tensors.items() if not key.endswith("num_batches_tracked")}
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert sum(t.numel() for t in ours.values()) == sum(v.size for v in values.values())
    assert set(report.used) == set(values)
    assert {k for keys in report.used.values() for k in keys.split(", ")} == set(ours)
    assert str(report) == f"{len(values)} used, 0 skipped, 0 unused, 0 missing, 0 mismatched"


def ours(**kwargs):
    arguments = {"form": "paper", "topology": "complete", "attention": "dot", "after_aggr": BiasReLU}
    arguments |= kwargs
    return RSTGBlock(4, scales=(2, 1), to="vec", **arguments)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"topology": "grid"}, "in the published form .*model.rstg.published: true"),
        ({"form": "skip"}, "in the published form"),
        ({"after_aggr": None}, "in the published form"),
        ({"residual": True}, "in the published form"),
        ({"cell": "gru"}, "in the published form"),
        ({"shared_rounds": False}, "in the published form"),
        ({"space_stages": False}, "in the published form"),
        ({"time_stages": "none"}, "in the published form"),
        ({"after_aggr": partial(torch.nn.LayerNorm)}, "Expected BiasReLU as 'after_aggr'"),
        ({"norm": torch.nn.LayerNorm}, "Expected a published norm .got LayerNorm"),
        ({"in_norm": torch.nn.LayerNorm}, "'in_norm' as published_arguments makes it .got LayerNorm"),
        ({"in_norm": ChannelBatchNorm}, "'in_norm' as published_arguments makes it"),
        ({"bias": False}, "two send layers, and biases in all layers"),
        ({"num_send_layers": 3}, "two send layers"),
        ({"attention_scale": 0.5}, "'attention_scale' to be 1 .*got 0.5"),
        ({"attention": "additive", "heads": 2}, "dot attention with 2 heads"),
        ({"out_norm": ZeroInitNorm}, "no norm after the graph with SimpleConv"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_network_that_is_not_in_the_published_form(kwargs, message):
    model = VideoClassifier(SimpleConv(1, (4,)), 3, head=ours(**kwargs))
    with pytest.raises(ValueError, match=message):
        official.convert(model, {})
    if not kwargs.get("out_norm"):
        with pytest.raises(ValueError, match=message):
            official.graph_variables(model.head, "", "tower/")


def test_a_foreign_norm_after_the_graph():
    arguments = {**published_arguments(), "out_norm": torch.nn.LayerNorm}
    head = RSTGBlock(16, 8, to="vec", **arguments)
    with pytest.raises(ValueError, match="Expected a published norm .got LayerNorm"):
        official.model_variables(VideoClassifier(resnet(I3D_KERNELS), 3, head=head))


def test_a_foreign_backbone():
    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = torch.nn.ModuleDict({"a": torch.nn.Identity()})
            self.channels = {"a": 1}

    with pytest.raises(ValueError, match="Expected a published backbone .got Toy"):
        official.model_variables(VideoClassifier(Toy(), 3))
