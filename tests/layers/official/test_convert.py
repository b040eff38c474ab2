"""Published weights in our modules: nothing lost, nothing silently wrong, all or nothing."""

import copy

import numpy as np
import pytest
import torch
from helpers.published_models import MODELS, random_variables

from rstg_pyg import official
from rstg_pyg.official import ConversionError

CELL = "cudnn_lstm/rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell/"
FLAT, KERNEL, BIAS = (
    "tower/whole_graph_model_final/" + name
    for name in ("cudnn_lstm/opaque_kernel", f"{CELL}kernel", f"{CELL}bias")
)


def clips_of(data):
    clips = torch.from_numpy(data["in/frames"]).float().movedim(-1, 1)
    return clips.unflatten(0, (len(data["in/labels"]), -1))


def without(variables, *endings):
    return {name: v for name, v in variables.items() if not name.endswith(endings)}


def test_both_forms_of_an_lstm_give_the_same_network(flags, variables, recorded):
    flat = without(variables, f"{CELL}kernel", f"{CELL}bias")
    canonical = without(variables, "opaque_kernel", "opaque_kernel/Momentum")
    logits = []
    for values in (flat, canonical, variables):
        model, report = official.convert(flags, values)
        assert (len(report.used), report.missing, report.unused) == (27, [], [])
        with torch.no_grad():
            logits.append(model(clips_of(recorded)).numpy())
        np.testing.assert_allclose(logits[-1], recorded["out/logits"], atol=2e-6)
    np.testing.assert_array_equal(logits[0], logits[2])
    # The canonical pair alone is used, not only skipped.
    assert set(flat) - set(canonical) == {n for n in flat if "opaque_kernel" in n}


def test_the_canonical_bias_is_the_sum_of_two(flags, variables):
    """The flat vector has two biases; only their sum is stored a second time."""
    half = 4 * 16
    moved = variables[FLAT].copy()
    moved[-2 * half : -half] += 0.5
    moved[-half:] -= 0.5
    variables[FLAT] = moved
    official.convert(flags, variables)
    moved[-half:] += 0.5
    with pytest.raises(ConversionError, match=r"forms of this LSTM differ \(by up to 5.0e-01"):
        official.convert(flags, variables)


@pytest.mark.parametrize("name", [FLAT, KERNEL, BIAS])
def test_two_forms_that_differ(flags, variables, name):
    value = variables[name] = variables[name].copy()
    value.flat[7] += 1e-3
    with pytest.raises(ConversionError, match="the two stored forms of this LSTM differ") as e:
        official.convert(flags, variables)
    assert list(e.value.report.mismatched) == [FLAT]
    others = (FLAT,) if name != FLAT else (KERNEL, BIAS)
    for value.flat[7] in (np.nan, np.inf):
        for values in (variables, without(variables, *others)):
            with pytest.raises(ConversionError, match="differ|not finite"):
                official.convert(flags, values)


@pytest.mark.parametrize(
    "kernel, bias, message",
    [
        ((32, 60), (60,), r"the canonical LSTM kernel has shape \[32, 60\]"),
        ((2, 32, 64), (64,), "the canonical LSTM kernel has shape"),
        ((32, 64), (63,), r"the canonical LSTM bias has shape \[63\]"),
        ((32, 64), None, r"the canonical LSTM bias has shape \[0\]"),
        ((16, 32), (32,), r"expected shape \[2176\], got \[576\]|have 2176 and 576"),
        ((3, 6), (6,), r"expected shape \[2176\]|have 2176 and"),
        ((0, 0), (0,), r"expected shape \[2176\]|have 2176 and"),
    ],
    ids=str,
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_canonical_pair_of_another_shape(flags, variables, kernel, bias, message, alone):
    if alone:
        del variables[FLAT]
    variables[KERNEL] = np.zeros(kernel, np.float32)
    del variables[BIAS]
    if bias is not None:
        variables[BIAS] = np.zeros(bias, np.float32)
    with pytest.raises(ConversionError, match=message):
        official.convert(flags, variables)


def test_an_lstm_in_neither_form_is_missing(flags, variables):
    with pytest.raises(ConversionError, match=f"1 tensors are missing .{FLAT}") as e:
        official.convert(flags, without(variables, FLAT, KERNEL))
    assert e.value.report.missing == [FLAT]


def test_the_report(flags, variables):
    _, report = official.convert(flags, variables)
    assert str(report) == "27 used, 34 skipped, 0 unused, 0 missing, 0 mismatched"
    reasons = {}
    for name, why in report.skipped.items():
        reasons.setdefault(why.split()[0], []).append(name)
    assert {why: len(names) for why, names in reasons.items()} == {
        "momentum": 25, "step": 1, "constant": 4, "second": 4,
    }  # fmt: skip
    assert reasons["step"] == ["global_step"]
    assert set(report.used) | set(report.skipped) == set(variables)
    lines = report.table().splitlines()
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell = ", ".join(f"head.rstg.cells.0.{part}_l0" for part in parts)
    assert len(lines) == 61 and f"used        {FLAT} -> {cell}" in lines
    assert "skipped     global_step (step counter of the training)" in lines


def test_the_report_of_a_failure(flags, variables):
    variables["tower/extra"] = np.zeros(3, np.float32)
    variables["tower/pred/kernel"] = np.zeros((16, 46), np.float32)
    del variables["tower/pred/bias"]
    problems = "1 tensors are missing .*1 tensors do not fit .*1 tensors are unused"
    with pytest.raises(ConversionError, match=problems) as e:
        official.convert(flags, variables)
    report = e.value.report
    assert (report.missing, report.unused) == (["tower/pred/bias"], ["tower/extra"])
    assert str(report) == "25 used, 34 skipped, 1 unused, 1 missing, 1 mismatched"
    lines = report.table().splitlines()
    assert "missing     tower/pred/bias" in lines and "unused      tower/extra" in lines
    shapes = "expected shape [1, 1, 1, 16, 46], got [16, 46]"
    assert f"mismatch    tower/pred/kernel: {shapes}" in lines


NAMES = ["tower/conv1/conv2d/kernel", "tower/pred/bias",
         "tower/whole_graph_model_final/batch_normalization/moving_variance",
         "tower/whole_graph_model_final/send_messages_mlp/send_conv1/kernel",
         "tower/whole_graph_model_final/my_attn/att_bias/biases"]  # fmt: skip


CHANGES = [
    (lambda v: None, "1 tensors are missing"),
    (lambda v: np.where(np.arange(v.size).reshape(v.shape) == 3, np.nan, v), "1 of .*not finite"),
    (lambda v: np.full_like(v, -np.inf), "values are not finite"),
    (lambda v: np.full(v.shape, 1e300), "values are not finite"),  # infinite in float32
    (lambda v: v[..., :-1], "expected shape"),
    (lambda v: v[None], "expected shape"),
    (lambda v: v.astype(np.int64), "expected floating point numbers, got int64"),
    (lambda v: v.astype(bool), "expected floating point numbers, got bool"),
    (lambda v: v.astype(str), "expected floating point numbers, got <U"),
    (lambda v: v.astype(np.complex64), "expected floating point numbers, got complex64"),
]


@pytest.mark.parametrize("name, change", zip(2 * NAMES, CHANGES))
def test_a_bad_tensor(flags, variables, name, change):
    change, message = change
    changed = change(variables.pop(name))
    if changed is not None:
        variables[name] = changed
    with pytest.raises(ConversionError, match=message) as e:
        official.convert(flags, variables)
    assert name in str(e.value) and isinstance(e.value, ValueError)


def test_a_failure_leaves_the_network_as_it_was(flags, variables):
    model = official.build(flags).train()
    before = copy.deepcopy(model.state_dict())
    last = official.model_variables(model)[-1].name
    for changes in (
        {last: None},
        {last: np.full(46, np.nan)},
        {"tower/new": np.zeros(1)},
        {FLAT: variables[FLAT] + 1},
        {"tower/positional_emb": np.zeros((14, 36))},
    ):
        values = {k: v for k, v in {**variables, **changes}.items() if v is not None}
        with pytest.raises(ConversionError):
            official.convert(model, values)
        after = model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert model.training
    official.convert(model, variables)
    assert not torch.equal(model.state_dict()["lin.bias"], before["lin.bias"])


def test_allow_unused(flags, variables):
    variables["tower/more/kernel"] = np.zeros((2, 2))
    variables["other"] = np.full(3, np.nan)  # whatever it holds
    with pytest.raises(ConversionError, match="2 tensors are unused .*allow_unused"):
        official.convert(flags, variables)
    _, report = official.convert(flags, variables, allow_unused=True)
    assert report.unused == ["tower/more/kernel", "other"]
    del variables["tower/pred/bias"]
    with pytest.raises(ConversionError, match="missing"):
        official.convert(flags, variables, allow_unused=True)


@pytest.mark.parametrize("dtype", ["f8", ">f4", ">f8", "f2"])
def test_other_floating_point_types(flags, variables, dtype):
    """Saved by other programs: double and half precision, another byte order."""
    values = without(variables, f"{CELL}kernel", f"{CELL}bias", "positional_emb")
    values = {n: v.astype(dtype) if v.dtype == np.float32 else v for n, v in values.items()}
    model, _ = official.convert(flags, values)
    expected, _ = official.convert(flags, {n: v.astype("f4") for n, v in values.items()})
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_values_are_copied(flags, variables):
    values = {name: value.copy() for name, value in variables.items()}
    model, _ = official.convert(flags, values)
    values["tower/pred/bias"][:] = 9
    np.testing.assert_array_equal(model.lin.bias.detach().numpy(), variables["tower/pred/bias"])


@pytest.mark.parametrize(
    "value",
    [np.zeros((14, 36), np.float32), np.zeros((14, 49), np.float32), np.full((14, 36), np.nan, "f4"),
     np.zeros(()), np.zeros((14, 36), int), np.array(["a"])],
    ids=lambda v: f"{v.dtype}{v.shape}",
)  # fmt: skip
def test_positions_of_another_config(flags, variables, value):
    variables["tower/positional_emb"] = value
    with pytest.raises(ConversionError, match="the positional maps differ from those of the config"):
        official.convert(flags, variables)


def test_positions_do_not_matter_where_none_are_used():
    model = MODELS["i3d"]()
    values = {**random_variables(model), "tower/positional_emb": np.zeros((3, 2), np.float32)}
    _, report = official.convert(model, values)
    assert list(report.skipped) == ["tower/positional_emb"]


@pytest.mark.parametrize(
    "changes",
    [{"use_att": "dot"}, {"use_norm": "LN"}, {"scalewise_update": True}, {"update_layers": 1},
     {"update_layers": 3}, {"dim_map": 7},
     {"use_positional_emb": False}, {"num_classes": 45}, {"dataset": "smt"},
     {"time_iter_mom": []}, {"message_dims": 8, "node_feat_dim": 8, "num_filters": 8}],
    ids=str,
)  # fmt: skip
def test_a_config_that_does_not_fit_the_weights(flags, variables, changes):
    with pytest.raises(ConversionError, match="the weights do not fit the config") as e:
        official.convert({**flags, **changes}, variables)
    assert len(str(e.value)) < 1200 and len(str(e.value).splitlines()) == 1


def test_a_model_on_another_type_receives_the_weights(flags, variables):
    for made, values, name, dtype in (
        (official.build(flags), variables, "tower/pred/bias", torch.double),
        (
            MODELS["i3d"](),
            random_variables(MODELS["i3d"]()),
            "tower/resnet_i3d/pred/bias",
            torch.bfloat16,
        ),
    ):
        model, _ = official.convert(made.to(dtype), values)
        assert torch.equal(model.lin.bias, torch.from_numpy(values[name]).to(dtype))
