import math

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, RandomScale
from torch_geometric.utils import is_undirected

from rstg_pyg import graphs
from rstg_pyg.graphs import joint_names, skeleton_graph

LAYOUTS = {"msr20": 20, "ntu25": 25}


def body(frames=9, layout="msr20", bodies=1):
    """Bodies whose hips move and whose bones have random directions."""
    graph = skeleton_graph(layout, bodies)
    count = graph.num_nodes
    direction = torch.nn.functional.normalize(torch.randn(frames, count, 3), dim=-1)
    bones = direction * graph.length.unsqueeze(-1)
    pos = torch.randn(frames, count, 3)
    order = [i for i in range(count) if graph.parent[i] == i]
    pos[:, order] = torch.randn(frames, len(order), 3)
    while len(order) < count:
        for i, parent in enumerate(graph.parent.tolist()):
            if i not in order and parent in order:
                pos[:, i] = pos[:, parent] + bones[:, i]
                order.append(i)
    return Data(pos=pos, mask=torch.ones(frames, count, dtype=torch.bool), layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bones_make_a_tree_with_the_hip_as_its_root(layout):
    graph, names = skeleton_graph(layout), joint_names(layout)
    assert len(names) == len(set(names)) == LAYOUTS[layout] == graph.num_nodes
    assert graph.edge_index.size(1) == 2 * (len(names) - 1) and is_undirected(graph.edge_index)
    for joint in range(len(names)):
        way = [joint]
        while int(graph.parent[way[-1]]) != way[-1]:
            way.append(int(graph.parent[way[-1]]))
        assert names[way[-1]] == "hip" and len(way) < 9
    left = [i for i, name in enumerate(names) if name.startswith("left ")]
    for i in left:  # sides are alike
        right = names.index(names[i].replace("left", "right"))
        assert graph.length[i] == graph.length[right]
        assert float(graph.pos[i, 0] + graph.pos[right, 0]) == pytest.approx(1)


def test_bones_are_as_long_as_those_of_people():
    """The medians of the recordings of MSR Action3D; of the second Kinect, what both have."""
    measured = {
        "shoulder": 0.220, "neck": 0.278, "spine": 0.218, "hip": 0.219, "elbow": 0.275, "wrist": 0.290,
        "hand": 0.069, "knee": 0.543, "ankle": 0.427, "foot": 0.167, "head": 0.239,
    }  # fmt: skip
    for name, length in zip(joint_names("msr20"), skeleton_graph().length.tolist()):
        part = name.split()[-1]
        assert length == (0 if name == "hip" else pytest.approx(measured[part], rel=0.06)), name
    names, length = joint_names("ntu25"), skeleton_graph("ntu25").length
    arm, leg = (
        sum(float(length[names.index(f"left {part}")]) for part in parts)
        for parts in (("elbow", "wrist", "hand"), ("knee", "ankle"))
    )
    back = sum(float(length[names.index(part)]) for part in ("spine", "shoulders", "neck", "head"))
    assert arm == pytest.approx(0.63, rel=0.1) and leg == pytest.approx(0.8, rel=0.1)
    assert back == pytest.approx(0.75, rel=0.1) and length[names.index("hip")] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bones_for_any_body(layout):
    """Measured between the joints, for positions that are no body's at all; directions stay."""
    torch.manual_seed(5)
    graph = skeleton_graph(layout)
    data = Data(pos=torch.randn(6, graph.num_nodes, 3), layout=layout)
    data.mask = torch.ones(6, graph.num_nodes, dtype=torch.bool)
    for joint, parent in enumerate(graph.parent.tolist()):
        before = data.pos[:, joint] - data.pos[:, parent]
        same = graphs.SameBones()(data).pos
        after = same[:, joint] - same[:, parent]
        assert torch.allclose(after.norm(dim=-1), graph.length[joint].expand(6), atol=1e-5)
        if joint != parent:
            cosine = torch.nn.functional.cosine_similarity(before, after)
            assert torch.allclose(cosine, torch.ones(6), atol=1e-4)


def test_bodies_have_no_edges_between_them():
    one, two = skeleton_graph("ntu25", together=True), skeleton_graph("ntu25", 2, together=True)
    assert (two.body[two.edge_index[0]] == two.body[two.edge_index[1]]).all()
    assert two.edge_index.size(1) == 2 * one.edge_index.size(1) > 4 * 24
    assert torch.equal(two.parent[25:], one.parent + 25)
    with pytest.raises(ValueError, match="'bodies' to be at least 1"):
        skeleton_graph("ntu25", 0)
    with pytest.raises(ValueError, match="'layout' to be one of msr20, ntu25"):
        skeleton_graph("coco")


def test_bodies_stand_side_by_side_with_the_same_edges():
    one, two = skeleton_graph("msr20", together=True), skeleton_graph("msr20", 2, together=True)
    assert torch.equal(two.edge_index, torch.cat([one.edge_index, one.edge_index + 20], dim=1))
    assert two.is_sorted(sort_by_row=False) and two.is_undirected()
    assert two.body.tolist() == [0] * 20 + [1] * 20 and two.joint.tolist() == [*range(20)] * 2
    shift = torch.tensor([[0.0, 0.0]] * 20 + [[0.5, 0.0]] * 20)
    assert torch.allclose(two.pos, one.pos.repeat(2, 1) * torch.tensor([0.5, 1.0]) + shift)
    names, bones = joint_names("msr20"), skeleton_graph("msr20").edge_index.t().tolist()
    more = [edge for edge in one.edge_index.t().tolist() if edge not in bones]
    assert {" and ".join(sorted(names[i] for i in edge)) for edge in more} == {
        "left hand and right hand", "head and left hand", "head and right hand", "hip and left hand",
        "hip and right hand", "left foot and right foot", "hip and left foot", "hip and right foot",
    }  # fmt: skip


def test_resampling_is_linear_and_keeps_the_ends():
    data = body(5)
    data.pos = torch.arange(5.0).view(5, 1, 1).expand(5, 20, 3).clone()
    out = graphs.ResampleFrames(9)(data)
    assert torch.allclose(out.pos[:, 3, 0], torch.arange(9) / 2) and out.mask.all()
    assert data.pos.size(0) == 5  # PyG's transforms leave their input alone
    part = graphs.ResampleFrames(3, crop=(0.5, 0.5), shift=1.0)(data)
    assert torch.allclose(part.pos[:, 0, 0], torch.tensor([2.0, 3.0, 4.0]))
    torch.manual_seed(0)
    warped = graphs.ResampleFrames(9, warp=0.8)(data).pos[:, 0, 0]
    assert (warped.diff() > 0).all() and warped[0] == 0 and float(warped[-1]) == pytest.approx(4)
    assert not torch.allclose(warped, torch.arange(9) / 2)
    single = graphs.ResampleFrames(4)(body(1))
    assert single.pos.shape == (4, 20, 3)


def test_a_random_part_has_a_random_length_and_begins_anywhere():
    data = body(11)
    data.pos = torch.arange(11.0).view(11, 1, 1).expand(11, 20, 3).clone()
    torch.manual_seed(0)
    parts = [graphs.ResampleFrames(3, crop=(0.2, 0.8))(data).pos[:, 0, 0] for _ in range(300)]
    begin, _, end = torch.stack(parts).unbind(1)
    length, place = end - begin, begin / (10 - (end - begin))
    assert 2 <= length.min() < 2.3 and 7.7 < length.max() <= 8.001
    assert 0 <= place.min() < 0.05 and 0.95 < place.max() <= 1.001
    assert 0.45 < place.mean() < 0.55 and 4.7 < length.mean() < 5.3


def test_an_absent_joint_stays_absent_beside_its_frame():
    data = body(3)
    data.mask[1, 4] = False
    data.pos[1, 4] = 0
    out = graphs.ResampleFrames(5)(data)
    assert out.mask[:, 4].tolist() == [True, False, False, False, True]
    assert (out.pos[~out.mask] == 0).all() and out.mask[:, 5].all()
    out = graphs.ResampleFrames(9)(data)  # a quarter of a frame beside it is beside it
    assert out.mask[:, 4].tolist() == [True, *[False] * 7, True]


def test_turned_bodies_face_forward_again():
    torch.manual_seed(1)
    data = body(6)
    forward = graphs.FaceForward()(data)
    turned = graphs.FaceForward()(graphs.RandomTurn(60)(data))
    assert torch.allclose(forward.pos, turned.pos, atol=1e-4)
    names = joint_names("msr20")
    across = sum(
        forward.pos[:, names.index(f"right {part}")] - forward.pos[:, names.index(f"left {part}")]
        for part in ("shoulder", "hip")
    ).mean(0)
    assert across[0] > 0 and abs(float(across[2])) < 1e-4
    assert torch.allclose(forward.pos[..., 1], data.pos[..., 1])


def test_facing_forward_looks_at_the_first_body_where_both_sides_are_there():
    torch.manual_seed(1)
    data = body(6, bodies=2)
    lost = joint_names("msr20").index("left shoulder")
    data.mask[2:, lost], data.pos[2:, lost] = False, 0
    across, names = 0, joint_names("msr20")
    for part, frames in (("shoulder", 2), ("hip", 6)):
        sides = (names.index(f"{side} {part}") for side in ("left", "right"))
        left, right = (data.pos[:frames, side] for side in sides)
        across = across + (right - left).sum(0)
    angle = math.atan2(float(across[2]), float(across[0]))
    turn = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    assert torch.allclose(graphs.FaceForward()(data).pos, data.pos @ turn.t(), atol=1e-5)


def test_everybody_gets_the_same_bones():
    torch.manual_seed(2)
    data = body(4, bodies=2)
    other = graphs.RandomBones(0.3)(data)
    graph = skeleton_graph("msr20", 2)
    ratio, hips = (pos.pos - pos.pos[:, graph.parent] for pos in (other, data)), graph.length == 0
    ratio = torch.div(*(bone.norm(dim=-1)[:, ~hips] for bone in ratio))
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio), atol=1e-4)  # the same in all frames
    assert 0.7 <= ratio.min() < 0.8 and 1.2 < ratio.max() <= 1.3  # each bone's own
    assert torch.equal(other.pos[:, hips], data.pos[:, hips])
    assert torch.allclose(graphs.SameBones()(other).pos, data.pos, atol=1e-4)
    data.mask[:, 10] = False  # a wrist: the hand stays where it was
    same = graphs.SameBones()(data)
    assert (same.pos[:, 10] == 0).all() and torch.isfinite(same.pos).all()


def test_the_joints_beyond_absent_ones_hang_on_what_is_left():
    """In whatever order they are: a shoulder comes before the neck that it hangs on."""
    data, names = body(2), joint_names("msr20")
    lost, spine, elbow = ("left shoulder", "neck"), names.index("spine"), names.index("left elbow")
    for joint in map(names.index, lost):
        data.mask[:, joint], data.pos[:, joint] = False, 0
    way = torch.nn.functional.normalize(data.pos[:, elbow] - data.pos[:, spine], dim=-1)
    same = graphs.SameBones()(data).pos
    expected = same[:, spine] + way * skeleton_graph().length[elbow]
    assert torch.allclose(same[:, elbow], expected, atol=1e-5)


def test_smoothing_takes_noise_out_and_leaves_what_stands():
    data = body(40)
    data.pos = torch.ones(40, 20, 3)
    assert torch.allclose(graphs.Smooth(3)(data).pos, data.pos)
    noisy = graphs.JitterJoints(0.1)(data)
    assert 0.08 < float((noisy.pos - 1).std()) < 0.12
    assert float((graphs.Smooth(3)(noisy).pos - 1).std()) < 0.06


def test_smoothing_leaves_absent_joints_out():
    data = body(5)
    data.pos = torch.full((5, 20, 3), 2.0)
    data.mask[2, 7] = False
    data.pos[2, 7] = 0
    one = body(5)
    one.pos = torch.tensor([0.0, 8.0, 0.0, 4.0, 4.0]).view(5, 1, 1).expand(5, 20, 3).clone()
    one.mask[3, 7] = False
    found = graphs.Smooth()(one).pos[..., 0]
    assert found[:, 0].tolist() == [2.0, 4.0, 3.0, 3.0, 4.0]  # ends count themselves once more
    assert found[:, 7].tolist() == pytest.approx([2.0, 4.0, 8 / 3, 0.0, 4.0])
    pos = graphs.Smooth(3)(data).pos
    assert (pos[2, 7] == 0).all() and torch.allclose(pos[data.mask], torch.tensor(2.0))


def test_features_without_the_hip():
    """A person who stands still far away; the hip is lost in some frames, or in all."""
    hip = joint_names("msr20").index("hip")
    still = body(6)
    still.pos = still.pos[:1].expand(6, -1, -1) + torch.tensor([0.0, 0.0, 3.0])
    whole = graphs.SkeletonFeatures(("joint", "motion"))(still.clone()).x
    for lost in ([3], [0, 1], [4, 5]):
        data = still.clone()
        data.mask, data.pos = data.mask.clone(), data.pos.clone()
        data.mask[lost, hip], data.pos[lost, hip] = False, 0
        x = graphs.SkeletonFeatures(("joint", "motion"))(data.clone()).x
        assert torch.allclose(x, whole, atol=1e-6)
        lost, same = (graphs.SameBones()(one.clone()).pos[data.mask] for one in (data, still))
        assert torch.allclose(lost, same, atol=1e-5)
    data = still.clone()
    data.mask, data.pos = data.mask.clone(), data.pos.clone()
    data.mask[:, hip], data.pos[:, hip] = False, 0
    x = graphs.SkeletonFeatures(("joint", "motion"))(data).x
    beside = (skeleton_graph().parent == hip) & (torch.arange(20) != hip)
    center = still.pos[:, beside].mean(1, keepdim=True)
    assert torch.allclose(x[..., :3], (still.pos - center) * data.mask.unsqueeze(-1), atol=1e-5)
    assert x[..., 3:].abs().max() < 1e-5
    two = Data(pos=torch.cat([data.pos, data.pos + 9], dim=1), layout=data.layout)
    two.mask = data.mask.repeat(1, 2)
    two.mask[:, :20] &= ~beside  # nor is one of those beside it
    two.pos = two.pos * two.mask.unsqueeze(-1)
    x = graphs.SkeletonFeatures(("joint",))(two.clone()).x
    there = two.mask[0, :20]
    center = still.pos[:, there].mean(1, keepdim=True)  # of the rest of the first body
    assert torch.allclose(x, (two.pos - center) * two.mask.unsqueeze(-1), atol=1e-4)


def test_random_changes_are_as_large_as_asked_for():
    torch.manual_seed(3)
    data = body(3)
    ratio = graphs.RandomSize(0.2)(data).pos / data.pos
    assert torch.allclose(ratio.flatten(0, 1).std(0), torch.zeros(3), atol=1e-3)
    assert (ratio - 1).abs().max() <= 0.2001 and (ratio[0, 0] - ratio[0, 0, 0])[1:].abs().min() > 0.01
    dropped = sum(float((~graphs.DropJoints(0.3)(data).mask).float().mean()) for _ in range(50)) / 50
    assert 0.25 < dropped < 0.35
    one = graphs.DropJoints(0.3)(data)
    assert torch.equal(one.mask[0], one.mask[2]) and (one.pos[~one.mask] == 0).all()
    lengths = (data.pos - data.pos[:, skeleton_graph().parent]).norm(dim=-1)
    data.mask[:, 4], data.pos[:, 4] = False, 0
    assert (graphs.JitterJoints(0.1)(data).pos[:, 4] == 0).all()  # what is absent stays at the origin
    point = Data(pos=torch.tensor([[[1.0, 0.0, 0.0]]]), mask=torch.ones(1, 1).bool(), layout="msr20")
    turned = torch.stack([graphs.RandomTurn(60)(point).pos[0, 0] for _ in range(200)])
    angles = torch.rad2deg(torch.atan2(turned[:, 2], turned[:, 0]))
    assert -60 <= angles.min() < -50 and 50 < angles.max() <= 60 and angles.mean().abs() < 8
    point.pos = torch.tensor([[[2.0, 1.0, 0.0]]])  # a tilt is about the axis across
    tilted = torch.stack([graphs.RandomTurn(0, 40)(point).pos[0, 0] for _ in range(200)])
    angles = torch.rad2deg(torch.atan2(tilted[:, 2], tilted[:, 1]))
    assert -40 <= angles.min() < -34 and 34 < angles.max() <= 40 and (tilted[:, 0] == 2).all()
    data = body(3)
    pos = graphs.RandomTurn(180, 40)(data).pos
    assert torch.allclose((pos - pos[:, skeleton_graph().parent]).norm(dim=-1), lengths, atol=1e-5)


def test_features_by_hand():
    data, parent = body(4), skeleton_graph().parent
    hip, wrist = joint_names("msr20").index("hip"), joint_names("msr20").index("left wrist")
    x = graphs.SkeletonFeatures(graphs.SkeletonFeatures.KINDS, motion_scale=2.0)(data).x
    joint, bone, motion, bone_motion, acceleration, motion_2, motion_4, motion_8 = x.split(3, dim=-1)
    assert torch.allclose(joint, data.pos - data.pos[:, hip : hip + 1])
    assert torch.allclose(bone, data.pos - data.pos[:, parent])
    assert torch.allclose(motion[1:], 2 * joint.diff(dim=0)) and (motion[0] == 0).all()
    assert torch.allclose(bone_motion[1:], 2 * bone.diff(dim=0), atol=1e-6)
    assert torch.allclose(acceleration[2:], motion.diff(dim=0)[1:], atol=1e-6)
    since_first = 2 * (joint - joint[:1])
    assert torch.allclose(motion_2[:2], since_first[:2], atol=1e-6)
    assert torch.allclose(motion_2[3], 2 * (joint[3] - joint[1]), atol=1e-6)
    assert torch.allclose(motion_4, since_first, atol=1e-6) and torch.equal(motion_4, motion_8)
    data = body(10)
    x = graphs.SkeletonFeatures(("joint", "motion_2", "motion_4", "motion_8"))(data).x
    joint, *changes = x.split(3, dim=-1)
    for frames, change in zip((2, 4, 8), changes, strict=True):
        assert torch.allclose(change[frames:], joint[frames:] - joint[:-frames], atol=1e-6)
        assert torch.allclose(change[:frames], joint[:frames] - joint[0], atol=1e-6)
    data.mask[2, wrist] = False
    data.pos[2, wrist] = 0
    x = graphs.SkeletonFeatures()(data).x
    assert torch.equal(x, graphs.SkeletonFeatures(("joint", "bone", "motion"))(data).x)
    assert (x[2, wrist] == 0).all() and (x[3, wrist, 6:] == 0).all() and (x[3, wrist, :3] != 0).any()
    hand = joint_names("msr20").index("left hand")
    assert (x[2, hand, 3:6] == 0).all()  # its bone has lost an end
    with pytest.raises(ValueError, match="'kinds' to be some of joint, bone"):
        graphs.SkeletonFeatures(["speed"])


def test_transforms_join_with_those_of_pyg():
    torch.manual_seed(0)
    steps = [graphs.SameBones(), RandomScale((2.0, 2.0)), graphs.SkeletonFeatures(["joint"])]
    data = body(3)
    x = Compose(steps)(data).x
    assert torch.allclose(x, 2 * (data.pos - data.pos[:, 6:7]), atol=1e-4)
    assert math.isfinite(float(x.sum()))
    assert repr(graphs.RandomTurn(30)) == "RandomTurn()"


def test_transforms_stay_on_the_device_of_the_data():
    """What they make themselves is not on another one (here: torch's default)."""
    steps = [
        graphs.ResampleFrames(5, (0.5, 1.0), 0.2), graphs.Smooth(), graphs.FaceForward(),
        graphs.RandomTurn(20, 5), graphs.RandomSize(0.1), graphs.RandomBones(0.1), graphs.SameBones(),
        graphs.JitterJoints(0.01), graphs.DropJoints(0.3),
        graphs.SkeletonFeatures(graphs.SkeletonFeatures.KINDS),
    ]  # fmt: skip
    data, made = body(), []
    data.mask[2, 3] = data.mask[:, joint_names("msr20").index("hip")] = False
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        with torch.device(device):
            made.append(Compose(steps)(data.clone()))
    for name in ("x", "pos", "mask"):
        assert torch.equal(made[1][name], made[0][name])
