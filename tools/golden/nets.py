"""Networks, layer by layer on PyTorch's own functions, and what they start from. Nothing of dass is imported or read.

Parameters, images and labels of the step cases are in no file: both sides make them from a name, by `numbers`, which
the C test repeats bit by bit. The whole commands start from a seed instead (draws.py).
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

EPS, MOMENTUM = 1e-5, 0.1  # of batch norms
REAL = torch.float64


# ---- numbers from names -------------------------------------------------------------------------------------------

def numbers(salt, name, n):
    """n words of 64 bits: FNV-1a of "salt/name", then per index a multiply-and-shift mix."""
    h = 0xcbf29ce484222325
    for byte in f"{salt}/{name}".encode():
        h = (h ^ byte) * 0x100000001b3 % 2**64
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15) + np.uint64(h)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    return z ^ (z >> np.uint64(31))


def signed(salt, name, n):
    """n numbers in [-1, 1), multiples of 2^-23, so that float holds them too."""
    return (numbers(salt, name, n) >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def tensor(values):
    return torch.from_numpy(values).to(REAL)


class Batches:
    """Images are bytes in NHWC order; a few batches per role, taken in turn so that the networks can learn them."""

    def __init__(self, case):
        self.case = case
        self.mean = torch.tensor(case["mean"], dtype=REAL).view(1, -1, 1, 1)
        self.std = torch.tensor(case["std"], dtype=REAL).view(1, -1, 1, 1)

    def bytes(self, role, number):
        """(N, H, W, C) as doubles, and labels."""
        c = self.case
        n, s = c["batch"], c["image"]
        number %= c["batches"]
        images = (numbers(c["salt"], f"images.{role}.{number}", n * s * s * 3) >> np.uint64(56)).astype(np.float64)
        labels = (numbers(c["salt"], f"labels.{role}.{number}", n) >> np.uint64(33)) % np.uint64(c["classes"])
        return images.reshape(n, s, s, 3), torch.from_numpy(labels.astype(np.int64))

    def get(self, role, number):
        images, labels = self.bytes(role, number)
        return (tensor(images).permute(0, 3, 1, 2) / 255.0 - self.mean) / self.std, labels


# ---- parameters ---------------------------------------------------------------------------------------------------

class FromNames:
    """First values out of names."""

    def __init__(self, salt):
        self.salt = salt

    def weight(self, name, shape):
        n = int(np.prod(shape))
        return tensor(signed(self.salt, name, n) / math.sqrt(n / shape[0])).reshape(shape)

    def other(self, name, n, about):
        return tensor(about + 0.1 * signed(self.salt, name, n))

    def alpha(self, kind, n):
        return tensor(0.5 * signed(self.salt, f"alpha.{kind}", n))


class Parameters:
    """Made when first asked for, in forward order. weights: what masks may prune; others: batch norm and biases."""

    def __init__(self, source):
        self.source = source
        self.weights, self.others, self.running = {}, {}, {}
        self.shown = None  # weights as the network sees them, when masked

    def weight(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = self.source.weight(name, shape).requires_grad_()
        return (self.shown or self.weights)[name]

    def other(self, name, n, about):
        if name not in self.others:
            self.others[name] = self.source.other(name, n, about).requires_grad_()
        return self.others[name]

    def statistics(self, name, n):
        if name not in self.running:
            self.running[name] = (torch.zeros(n, dtype=REAL), torch.ones(n, dtype=REAL))
        return self.running[name]

    def statistics_by_name(self):
        named = {}
        for name, (mean, var) in self.running.items():
            named[name + ".running_mean"], named[name + ".running_var"] = mean, var
        return named


# ---- networks -----------------------------------------------------------------------------------------------------

class Network:
    """Layers over Parameters. training: batch statistics, and running ones follow if track; else running statistics."""

    def __init__(self, case, source=None):
        self.case = case
        self.p = Parameters(source or FromNames(case["salt"]))
        self.training, self.track = True, False
        self.auxiliary = False  # a second classifier, whose logits are then in aux_logits
        self.drop = None        # drop(x, edge's name): what drop-path makes of an edge

    def conv(self, x, name, c_out, k=1, stride=1, dilation=1, groups=1):
        w = self.p.weight(name, c_out, x.shape[1] // groups, k, k)
        return F.conv2d(x, w, stride=stride, padding=dilation * (k // 2), dilation=dilation, groups=groups)

    def norm(self, x, name, affine=True, running=True):
        n = x.shape[1]
        gamma = self.p.other(name + ".gamma", n, 1.0) if affine else None
        beta = self.p.other(name + ".beta", n, 0.0) if affine else None
        mean, var = self.p.statistics(name, n) if running else (None, None)
        if running and not self.training:
            return F.batch_norm(x, mean, var, gamma, beta, False, MOMENTUM, EPS)
        if running and self.track:
            return F.batch_norm(x, mean, var, gamma, beta, True, MOMENTUM, EPS)
        return F.batch_norm(x, None, None, gamma, beta, True, MOMENTUM, EPS)

    def classify(self, x):
        x = x.mean(dim=(2, 3))
        w = self.p.weight("classifier.weight", self.case["classes"], x.shape[1], 1, 1)
        return F.linear(x, w.flatten(1), self.p.other("classifier.bias", self.case["classes"], 0.0))


PRIMITIVES = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
              "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]


class Cells(Network):
    """The DARTS space: the relaxed network while genotype is None, else the discrete one of the genotype.

    Relaxed: every primitive on every edge, weighted by a softmax; batch norms without parameters and on batch
    statistics always; one after each pool. Discrete: two edges a node, affine batch norms that track, none after pools.
    """

    def __init__(self, case, genotype=None, source=None):
        super().__init__(case, source)
        self.genotype = genotype
        self.relaxed = genotype is None
        n_edges = sum(i + 2 for i in range(case["nodes"]))
        if self.relaxed:
            self.alpha = {kind: self.p.source.alpha(kind, n_edges * 8).reshape(n_edges, 8).requires_grad_()
                          for kind in ("normal", "reduce")}

    def norm_here(self, x, name):
        return self.norm(x, name, affine=not self.relaxed, running=not self.relaxed)

    def relu_conv_norm(self, x, name, c):
        return self.norm_here(self.conv(F.relu(x), name + ".conv", c), name + ".bn")

    def halve(self, x, name, c):
        x = F.relu(x)
        even = self.conv(x, name + ".conv1", c // 2, stride=2)
        odd = self.conv(x[:, :, 1:, 1:], name + ".conv2", c - c // 2, stride=2)
        return self.norm_here(torch.cat([even, odd], dim=1), name + ".bn")

    def separable(self, x, name, number, c, k, stride, dilation=1):
        x = self.conv(F.relu(x), f"{name}.dw{number}", x.shape[1], k, stride, dilation, groups=x.shape[1])
        return self.norm_here(self.conv(x, f"{name}.pw{number}", c), f"{name}.bn{number}")

    def primitive(self, op, x, edge, c, stride):
        name = f"{edge}.{op}"
        if op == "max_pool_3x3":
            y = F.max_pool2d(x, 3, stride, padding=1)
            return self.norm_here(y, name + ".bn") if self.relaxed else y
        if op == "avg_pool_3x3":
            y = F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)
            return self.norm_here(y, name + ".bn") if self.relaxed else y
        if op == "skip_connect":
            return x if stride == 1 else self.halve(x, name, c)
        k = 3 if op.endswith("3x3") else 5
        if op.startswith("sep_conv"):
            return self.separable(self.separable(x, name, 1, c, k, stride), name, 2, c, k, 1)
        return self.separable(x, name, "", c, k, stride, dilation=2)

    def node(self, states, cell, i, reduction, c):
        total = 0

        def stride(source):
            return 2 if reduction and source < 2 else 1

        if not self.relaxed:
            for op, source in self.genotype["reduce" if reduction else "normal"][2 * i:2 * i + 2]:
                edge = f"{cell}.n{i + 2}.e{source}"
                y = self.primitive(op, states[source], edge, c, stride(source))
                if self.drop and not (op == "skip_connect" and stride(source) == 1):
                    y = self.drop(y, edge)
                total = total + y
            return total
        first = sum(j + 2 for j in range(i))
        share = torch.softmax(self.alpha["reduce" if reduction else "normal"], dim=1)
        for source, x in enumerate(states):
            for j, op in enumerate(PRIMITIVES):
                if op != "none":  # adds nothing, but takes its share
                    y = self.primitive(op, x, f"{cell}.n{i + 2}.e{source}", c, stride(source))
                    total = total + share[first + source, j] * y
        return total

    def logits(self, x):
        case = self.case
        c = case["channels"]
        s0 = s1 = self.norm(self.conv(x, "stem.conv", 3 * c, 3), "stem.bn", running=not self.relaxed)
        halved = False
        for i in range(case["layers"]):
            cell = f"cells.{i}"
            reduction = i in (case["layers"] // 3, 2 * case["layers"] // 3)
            c *= 2 if reduction else 1
            states = [(self.halve if halved else self.relu_conv_norm)(s0, cell + ".pre0", c),
                      self.relu_conv_norm(s1, cell + ".pre1", c)]
            for node in range(case["nodes"]):
                states.append(self.node(states, cell, node, reduction, c))
            chosen = range(2, len(states))
            if not self.relaxed:
                chosen = self.genotype["reduce_concat" if reduction else "normal_concat"]
            s0, s1 = s1, torch.cat([states[j] for j in chosen], dim=1)
            halved = reduction
            if i == 2 * case["layers"] // 3:
                tap = s1
        logits = self.classify(s1)
        if self.auxiliary:
            self.aux_logits = self.second_head(tap)
        return logits

    def second_head(self, x):
        x = F.avg_pool2d(F.relu(x), 5, stride=3, padding=0, count_include_pad=False)
        x = F.relu(self.norm(self.conv(x, "auxiliary.conv1", 128), "auxiliary.bn1"))
        w = self.p.weight("auxiliary.conv2", 768, 128, 2, 2)
        x = F.relu(self.norm(F.conv2d(x, w), "auxiliary.bn2"))
        w = self.p.weight("auxiliary.classifier.weight", self.case["classes"], 768, 1, 1)
        return F.linear(x.flatten(1), w.flatten(1), self.p.other("auxiliary.classifier.bias", self.case["classes"], 0.0))


class MobileNetV2(Network):
    """Sandler et al. 2018 for small images: stem and second stage keep the size, relu for relu6, a projected shortcut
    wherever the size stays and the channels change."""

    def block(self, x, name, expansion, c, stride):
        hidden = expansion * x.shape[1]
        y = F.relu(self.norm(self.conv(x, name + ".conv1", hidden), name + ".bn1"))
        y = F.relu(self.norm(self.conv(y, name + ".conv2", hidden, 3, stride, groups=hidden), name + ".bn2"))
        y = self.norm(self.conv(y, name + ".conv3", c), name + ".bn3")
        if stride != 1:
            return y
        if x.shape[1] != c:
            x = self.norm(self.conv(x, name + ".shortcut.conv", c), name + ".shortcut.bn")
        return y + x

    def logits(self, x):
        x = F.relu(self.norm(self.conv(x, "stem.conv", 32, 3), "stem.bn"))
        number = 0
        for expansion, c, blocks, stride in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2),
                                             (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
            for i in range(blocks):
                x = self.block(x, f"blocks.{number}", expansion, c, stride if i == 0 else 1)
                number += 1
        return self.classify(F.relu(self.norm(self.conv(x, "head.conv", 1280), "head.bn")))


class ResNet18(Network):
    """He et al. 2016 for small images: a 3x3 stem of stride 1 and no pool; two basic blocks at each of four widths."""

    def block(self, x, name, c, stride):
        y = F.relu(self.norm(self.conv(x, name + ".conv1", c, 3, stride), name + ".bn1"))
        y = self.norm(self.conv(y, name + ".conv2", c, 3), name + ".bn2")
        if stride != 1 or x.shape[1] != c:
            x = self.norm(self.conv(x, name + ".shortcut.conv", c, 1, stride), name + ".shortcut.bn")
        return F.relu(x + y)

    def logits(self, x):
        x = F.relu(self.norm(self.conv(x, "stem.conv", 64, 3), "stem.bn"))
        for i in range(8):
            x = self.block(x, f"blocks.{i}", 64 * 2**(i // 2), 2 if i in (2, 4, 6) else 1)
        return self.classify(x)


# ---- sparsity -----------------------------------------------------------------------------------------------------

class TopK(torch.autograd.Function):
    """1 where a magnitude is among the kept largest of its tensor, else 0; straight-through. Of equals the earlier
    index is dropped first."""

    @staticmethod
    def forward(ctx, magnitude, density):
        flat = magnitude.flatten()
        dropped = math.floor((1.0 - density) * flat.numel())
        mask = torch.ones_like(flat)
        mask[torch.sort(flat, stable=True).indices[:dropped]] = 0.0
        return mask.reshape(magnitude.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def scaled_scores(weights):
    return {name: (math.sqrt(6.0 / w[0].numel()) * w.detach() / w.detach().abs().max()).requires_grad_()
            for name, w in weights.items()}


def margin(scores, density):
    """The smallest gap between the last kept and the first dropped magnitude, in units of the tensor's largest."""
    least = math.inf
    for s in scores.values():
        magnitude = s.detach().abs().flatten().sort().values
        dropped = math.floor((1.0 - density) * len(magnitude))
        if 0 < dropped < len(magnitude):
            least = min(least, float((magnitude[dropped] - magnitude[dropped - 1]) / magnitude[-1]))
    return least


# ---- results ------------------------------------------------------------------------------------------------------

def sums(tensors):
    doubles = {name: t.detach().double() for name, t in tensors.items()}
    return {name: [float(t.sum()), float((t**2).sum())] for name, t in doubles.items()}


def kept(masks):
    """Per tensor how many entries are kept, and the sum of their one-based positions."""
    return {name: [int(m.sum()), int((m.flatten() * torch.arange(1, m.numel() + 1)).sum())]
            for name, m in masks.items()}


def loss_of(network, batch, smoothing=0.0):
    logits = network.logits(batch[0])
    loss = F.cross_entropy(logits, batch[1], label_smoothing=smoothing)
    return loss, int((logits.argmax(1) == batch[1]).sum())


def clear(tensors):
    for t in tensors:
        t.grad = None
