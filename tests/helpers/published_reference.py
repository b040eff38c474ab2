"""The published graph in float64 numpy, from published_code_semantics.md (sections 1 to 3) alone.

It shares nothing with the package: loops over nodes, scales and frames where the text has them.
"""

import numpy as np

SCOPE = "tower/whole_graph_model_final/"


def area(cells, size):
    """Section 1.4: ``A[o, i] = |[o h, (o + 1) h] and [i, i + 1]| / h``, ``h = size / cells``."""
    h = size / cells
    out = np.zeros((cells, size))
    for o in range(cells):
        for i in range(size):
            out[o, i] = max(0.0, min((o + 1) * h, i + 1) - max(o * h, i)) / h
    return out


def regions(flags):
    """Section 1.2: boxes ``x0, x1, y0, y1`` in pixels of the input image, finest scale first."""
    height, width, boxes = flags["dim_h"], flags["dim_w"], []
    for s in range(flags["num_scales"], 0, -1):
        ph, pw = height // s, width // s
        for r in range(height // ph):
            for c in range(width // pw):
                boxes.append((c * pw, (c + 1) * pw, r * ph, (r + 1) * ph))
    return np.array(boxes)


def adjacency(flags):
    """Section 1.3."""
    boxes = regions(flags)
    out = np.zeros((len(boxes), len(boxes)))
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            ox, oy = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
            out[i, j] = i != j and ox >= 0 and oy >= 0 and not (ox == 0 and oy == 0)
    return out


def positions(flags):
    """Section 1.6: ``[N, d * d]``."""
    d, out = flags["dim_map"], []
    for s in range(flags["num_scales"], 0, -1):
        k = d // s
        g = np.exp(-((np.arange(k) - (k - 1) / 2) ** 2) / 8)
        for r in range(s):
            for c in range(s):
                heat = np.zeros((d, d))
                heat[r * k : (r + 1) * k, c * k : (c + 1) * k] = np.outer(g, g)
                out.append(heat.ravel())
    return np.array(out)


def shapes(flags):
    """Section 3.3: the shape of every variable, constants excepted, by its name without the scope."""
    d, norm = flags["message_dims"], flags["use_norm"]
    width = d + flags["dim_map"] ** 2 if flags["use_positional_emb"] else d
    out = {}

    def linear(name, *kernel):
        out[f"{name}/kernel"], out[f"{name}/bias"] = kernel, kernel[-1:]

    def add_norm(name, kind):
        parts = {"LN": ["gamma", "beta"], "BN": ["gamma", "beta", "moving_mean", "moving_variance"]}
        out.update({f"{name}/{part}": (d,) for part in parts.get(kind, [])})

    if flags["project_in"]:
        linear("project_i3d", flags["C"], d)
    if flags["dataset"] == "mnist":
        add_norm("batch_normalization", "BN")
    add_norm(f"before_graf_{norm.lower()}", norm)
    if any(k in flags["time_iter_mom"] for k in range(flags["num_process_iter"])):
        out["cudnn_lstm/opaque_kernel"] = (8 * d * d + 8 * d,)
    linear("send_messages_mlp/send_conv1", 1, 1, 2 * width, d)
    linear("send_messages_mlp/send_conv2", 1, 1, d, d)
    add_norm(f"send_messages_mlp/message_{norm.lower()}", norm)
    heads = [f"attention_head{h}/" for h in range(8)] if flags["multihead_att"] else [""]
    simple = flags["use_att"] == "simple"
    for head in heads:
        part, att = d // len(heads), "my_attn" if simple else "dot_product_attn"
        if len(heads) > 1:
            linear(f"{head}messages_proj", 1, 1, d, part)
        linear(f"{head}{att}/att_conv1", 1, d, 1 if simple else part)
        linear(f"{head}{att}/att_conv2", 1, d, 1 if simple else part)
        out[f"{head}{att}/att_bias/biases"] = (part,)
    if simple:
        add_norm(f"my_attn/att_{norm.lower()}", norm)
    scalewise = flags["scalewise_update"]
    update = "update_node_mlp_" if scalewise else "update_node_mlp"
    for q in range(1, flags["num_scales"] + 1) if scalewise else [None]:
        for n in range(1, flags["update_layers"] + 1):
            name = f"{update}/update_conv{n}" + ("" if q is None else f"_type{q}")
            linear(name, 1, 2 * d if n == 1 else d, d)
    add_norm(f"{update}/update_{norm.lower()}", norm)
    out["time_update_extern/cudnn_lstm/opaque_kernel"] = (8 * d * d + 8 * d,)
    if flags["project_out"]:
        linear("project_back_to_i3d", d, flags["C"])
    return {SCOPE + name: shape for name, shape in out.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


class Graph:
    """The graph of some flags with variables; ``self.v`` holds them, moving statistics included."""

    def __init__(self, flags, variables, training=False):
        self.flags, self.training = flags, training
        self.v = {name.removeprefix(SCOPE): np.array(v, np.float64) for name, v in variables.items()}
        self.a = adjacency(flags)
        self.scales = range(flags["num_scales"], 0, -1)
        # The variable holds float32 numbers.
        self.pos = positions(flags).astype(np.float32) if flags["use_positional_emb"] else None

    def linear(self, name, x):
        kernel = self.v[f"{name}/kernel"]
        return x @ kernel.reshape(kernel.shape[-2:]) + self.v[f"{name}/bias"]

    def ln(self, name, x):
        axes = tuple(range(1, x.ndim))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-12) * self.v[f"{name}/gamma"] + self.v[f"{name}/beta"]

    def bn(self, name, x):
        mean, var = self.v[f"{name}/moving_mean"], self.v[f"{name}/moving_variance"]
        if self.training:
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1]
            batch_mean, batch_var = x.mean(axes), x.var(axes)
            pushed = batch_var * (count / max(count - 1, 1) if x.ndim == 4 else 1)
            self.v[f"{name}/moving_mean"] = 0.99 * mean + 0.01 * batch_mean
            self.v[f"{name}/moving_variance"] = 0.99 * var + 0.01 * pushed
            mean, var = batch_mean, batch_var
        x = (x - mean) / np.sqrt(var + 1e-3)
        return x * self.v[f"{name}/gamma"] + self.v[f"{name}/beta"]

    def norm(self, name, x):
        kind = self.flags["use_norm"]
        if kind == "none":
            return x
        return {"LN": self.ln, "BN": self.bn}[kind](f"{name}_{kind.lower()}", x)

    def lstm(self, name, x):
        """``[T, M, D]`` to the same."""
        flat, d = self.v[f"{name}/opaque_kernel"], x.shape[-1]
        w, r = flat[: 8 * d * d].reshape(2, 4, d, d)
        b_w, b_r = flat[8 * d * d :].reshape(2, 4, d)
        h = c = np.zeros(x.shape[1:])
        out = []
        for frame in x:
            i, f, g, o = (frame @ w[n].T + h @ r[n].T + b_w[n] + b_r[n] for n in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        return np.array(out)

    def attend(self, scope, z, m):
        """One head: ``[B, N, C]`` from nodes and messages ``[B, N, N, C]``, before bias and ReLU."""
        if self.flags["use_att"] == "simple":
            f1 = self.linear(f"{scope}att_conv1", z)
            f2 = self.linear(f"{scope}att_conv2", z)
            inner = self.a * f1 + self.a * f2.transpose(0, 2, 1)
            logit = np.where(inner > 0, inner, 0.2 * inner) + self.a
        else:
            q, key = self.linear(f"{scope}att_conv1", z), self.linear(f"{scope}att_conv2", z)
            logit = self.a * np.einsum("bic,bjc->bij", q, key)
        e = np.exp(logit - logit.max(-1, keepdims=True))
        alpha = e / e.sum(-1, keepdims=True)
        return np.einsum("bij,bijc->bic", alpha, m) + self.v[f"{scope}att_bias/biases"]

    def space(self, z):
        b, n, _ = z.shape
        zp = z if self.pos is None else np.concatenate([z, np.tile(self.pos, (b, 1, 1))], -1)
        pairs = np.zeros((b, n, n, 2 * zp.shape[-1]))
        for i in range(n):
            for j in range(n):
                pairs[:, i, j] = np.concatenate([zp[:, j], zp[:, i]], -1)
        m = relu(self.linear("send_messages_mlp/send_conv1", pairs))
        m = relu(self.linear("send_messages_mlp/send_conv2", m))
        m = self.norm("send_messages_mlp/message", m)
        if self.flags["multihead_att"]:
            g = []
            for h in range(8):
                head = f"attention_head{h}/"
                messages = self.linear(f"{head}messages_proj", m)
                g.append(relu(self.attend(f"{head}dot_product_attn/", z, messages)))
            g = np.concatenate(g, -1)
        elif self.flags["use_att"] == "dot":
            g = relu(self.attend("dot_product_attn/", z, m))
        else:
            g = relu(self.norm("my_attn/att", self.attend("my_attn/", z, m)))
        u = np.concatenate([z, g], -1)
        if self.flags["scalewise_update"]:
            parts, at = [], 0
            for q, s in enumerate(self.scales, start=1):
                part, at = u[:, at : at + s * s], at + s * s
                for layer in range(1, self.flags["update_layers"] + 1):
                    part = relu(self.linear(f"update_node_mlp_/update_conv{layer}_type{q}", part))
                parts.append(part)
            return self.norm("update_node_mlp_/update", np.concatenate(parts, 1))
        for layer in range(1, self.flags["update_layers"] + 1):
            u = relu(self.linear(f"update_node_mlp/update_conv{layer}", u))
        return self.norm("update_node_mlp/update", u)

    def __call__(self, x):
        """All outputs for a map ``[B, T, H, W, C]``."""
        x = np.asarray(x, np.float64)
        b, t, height, width, _ = x.shape
        nodes = []
        for s in self.scales:
            cells = np.einsum("ri,cj,btijd->btrcd", area(s, height), area(s, width), x)
            nodes.append(cells.reshape(b, t, s * s, -1))
        v = np.concatenate(nodes, 2)
        if self.flags["project_in"]:
            v = self.linear("project_i3d", v)
        if self.flags["dataset"] == "mnist":
            v = self.bn("batch_normalization", v)
        v = self.norm("before_graf", v)
        v = v.transpose(1, 0, 2, 3)  # time first
        for k in range(self.flags["num_process_iter"]):
            if k in self.flags["time_iter_mom"]:
                v = self.lstm("cudnn_lstm", v.reshape(t, -1, v.shape[-1])).reshape(v.shape)
            v = np.stack([self.space(frame) for frame in v])
        v = self.lstm("time_update_extern/cudnn_lstm", v.reshape(t, -1, v.shape[-1])).reshape(v.shape)
        if self.flags["project_out"]:
            v = self.linear("project_back_to_i3d", v)
        maps, at = 0, 0
        for s in self.scales:
            grid = v[:, :, at : at + s * s].reshape(t, b, s, s, -1)
            maps = maps + np.einsum("yr,xc,tbrcd->btyxd", area(height, s), area(width, s), grid)
            at += s * s
        return {
            "final_nodes_feats": v,
            "frames_feats": v.sum(2),
            "video_feats": v.mean(0).sum(1),
            "regions_feats": maps,
        }
