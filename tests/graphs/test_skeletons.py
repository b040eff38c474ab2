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


def test_bodies_have_no_edges_between_them():
    one, two = skeleton_graph("ntu25", together=True), skeleton_graph("ntu25", 2, together=True)
    assert (two.body[two.edge_index[0]] == two.body[two.edge_index[1]]).all()
    assert two.edge_index.size(1) == 2 * one.edge_index.size(1) > 4 * 24
    assert torch.equal(two.parent[25:], one.parent + 25)
    with pytest.raises(ValueError, match="'bodies' to be at least 1"):
        skeleton_graph("ntu25", 0)
    with pytest.raises(ValueError, match="'layout' to be one of msr20, ntu25"):
        skeleton_graph("coco")


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


def test_an_absent_joint_stays_absent_beside_its_frame():
    data = body(3)
    data.mask[1, 4] = False
    data.pos[1, 4] = 0
    out = graphs.ResampleFrames(5)(data)
    assert out.mask[:, 4].tolist() == [True, False, False, False, True]
    assert (out.pos[~out.mask] == 0).all() and out.mask[:, 5].all()


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


def test_everybody_gets_the_same_bones():
    torch.manual_seed(2)
    data = body(4, bodies=2)
    other = graphs.RandomBones(0.3)(data)
    assert not torch.allclose(other.pos, data.pos, atol=1e-2)
    assert torch.allclose(graphs.SameBones()(other).pos, data.pos, atol=1e-4)
    data.mask[:, 10] = False  # a wrist: the hand stays where it was
    same = graphs.SameBones()(data)
    assert (same.pos[:, 10] == 0).all() and torch.isfinite(same.pos).all()


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


def test_random_changes_are_as_large_as_asked_for():
    torch.manual_seed(3)
    data = body(3)
    ratio = graphs.RandomSize(0.2)(data).pos / data.pos
    assert torch.allclose(ratio.flatten(0, 1).std(0), torch.zeros(3), atol=1e-3)
    assert (ratio - 1).abs().max() <= 0.2001 and (ratio[0, 0] - ratio[0, 0, 0]).abs().max() > 0
    dropped = sum(float((~graphs.DropJoints(0.3)(data).mask).float().mean()) for _ in range(50)) / 50
    assert 0.25 < dropped < 0.35
    one = graphs.DropJoints(0.3)(data)
    assert torch.equal(one.mask[0], one.mask[2]) and (one.pos[~one.mask] == 0).all()
    lengths = (data.pos - data.pos[:, skeleton_graph().parent]).norm(dim=-1)
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
    data.mask[2, wrist] = False
    data.pos[2, wrist] = 0
    x = graphs.SkeletonFeatures()(data).x
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
