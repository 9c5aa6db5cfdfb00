#!/usr/bin/env python3
"""Golden loss curves of tiny networks, computed by PyTorch in float64, for tests/test_golden.c.

    tools/golden.py [--out tests/golden] [--threads 2] [NAME ...]        default: every file
    tools/golden.py --float [NAME ...]        writes nothing: how far PyTorch's own float32 strays from the files

What the method says is written down here a second time, on PyTorch's own layers, autograd and optimisers; nothing of
dass is imported, called or read but the genotypes under configs/. A file holds the settings of a case and what came out
of it. Parameters, images and labels are in no file: both sides make them from a name, by `numbers` below, which the C
test repeats bit by bit. Needed only to make the files anew: torch (Debian: python3-torch) and numpy.
"""
import argparse
import json
import math
import os
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    sys.exit(f"golden: {sys.executable}: {missing}. This needs PyTorch (Debian: python3-torch, for /usr/bin/python3). "
             "The files it makes are in the repository, and the tests read them without it")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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


def weights_of(salt, name, shape):
    fan_in = float(np.prod(shape[1:]))
    return tensor(signed(salt, name, int(np.prod(shape))) / math.sqrt(fan_in)).reshape(shape)


class Batches:
    """Images are bytes in NHWC order; a few batches per role, taken in turn so that the networks can learn them."""

    def __init__(self, case):
        self.case = case
        self.mean = torch.tensor(case["mean"], dtype=REAL).view(1, -1, 1, 1)
        self.std = torch.tensor(case["std"], dtype=REAL).view(1, -1, 1, 1)

    def get(self, role, number):
        c = self.case
        n, s = c["batch"], c["image"]
        number %= c["batches"]
        images = (numbers(c["salt"], f"images.{role}.{number}", n * s * s * 3) >> np.uint64(56)).astype(np.float64)
        labels = (numbers(c["salt"], f"labels.{role}.{number}", n) >> np.uint64(33)) % np.uint64(c["classes"])
        x = tensor(images).reshape(n, s, s, 3).permute(0, 3, 1, 2)
        return (x / 255.0 - self.mean) / self.std, torch.from_numpy(labels.astype(np.int64))


# ---- parameters ---------------------------------------------------------------------------------------------------

class Parameters:
    """Made when first asked for, in forward order. weights: what masks may prune; others: batch norm and biases."""

    def __init__(self, salt):
        self.salt = salt
        self.weights, self.others, self.running = {}, {}, {}
        self.shown = None  # weights as the network sees them, when masked

    def weight(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = weights_of(self.salt, name, shape).requires_grad_()
        return (self.shown or self.weights)[name]

    def other(self, name, n, about):
        if name not in self.others:
            self.others[name] = tensor(about + 0.1 * signed(self.salt, name, n)).requires_grad_()
        return self.others[name]

    def statistics(self, name, n):
        if name not in self.running:
            self.running[name] = (torch.zeros(n, dtype=REAL), torch.ones(n, dtype=REAL))
        return self.running[name]


# ---- networks -----------------------------------------------------------------------------------------------------

class Network:
    """Layers over Parameters. training: batch statistics, and running ones follow if track; else running statistics."""

    def __init__(self, case):
        self.case = case
        self.p = Parameters(case["salt"])
        self.training, self.track = True, False

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

    def __init__(self, case, genotype=None):
        super().__init__(case)
        self.genotype = genotype
        self.relaxed = genotype is None
        n_edges = sum(i + 2 for i in range(case["nodes"]))
        if self.relaxed:
            self.alpha = {kind: tensor(0.5 * signed(case["salt"], f"alpha.{kind}", n_edges * 8))
                          .reshape(n_edges, 8).requires_grad_() for kind in ("normal", "reduce")}

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
                total = total + self.primitive(op, states[source], f"{cell}.n{i + 2}.e{source}", c, stride(source))
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
        return self.classify(s1)


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


def loss_of(network, batch):
    logits = network.logits(batch[0])
    loss = F.cross_entropy(logits, batch[1])
    return loss, int((logits.argmax(1) == batch[1]).sum())


def clear(tensors):
    for t in tensors:
        t.grad = None


# ---- cases --------------------------------------------------------------------------------------------------------

def search(case):
    """Three stages of the search in first order. Per step: alpha on a validation batch, then weights or scores."""
    net, batches = Cells(case), Batches(case)
    loss_of(net, batches.get("train", 0))  # makes the parameters
    p = net.p
    alphas = list(net.alpha.values())
    adam = torch.optim.Adam(alphas, lr=case["lr_alpha"], betas=tuple(case["betas"]), eps=case["adam_eps"],
                            weight_decay=case["decay_alpha"])
    others = list(p.others.values())
    result = {"initial": {**sums(p.weights), **sums(p.others)}, "stages": []}
    scores, masks, number = {}, {}, 0
    for stage in ("dense", "score", "finetune"):
        trained = list(p.weights.values())
        if stage == "score":
            scores = scaled_scores(p.weights)
            trained = list(scores.values())
        if stage == "finetune":
            masks = {name: TopK.apply(s.detach().abs(), case["density"]) for name, s in scores.items()}
        sgd = torch.optim.SGD([{"params": trained, "lr": case["lr_score" if stage == "score" else "lr"]},
                               {"params": others, "lr": case["lr"]}],
                              lr=case["lr"], momentum=case["momentum"], weight_decay=case["decay"])

        def show():
            if stage == "score":
                p.shown = {name: w.detach() * TopK.apply(scores[name].abs(), case["density"])
                           for name, w in p.weights.items()}
            if stage == "finetune":
                p.shown = {name: w * masks[name] for name, w in p.weights.items()}

        out = {"stage": stage, "steps": []}
        closest = math.inf
        for _ in range(case["steps"]):
            step = {}
            show()
            clear(trained + others + alphas)
            loss, step["val_correct"] = loss_of(net, batches.get("val", number))
            loss.backward()
            step["val_loss"] = float(loss)
            adam.step()
            show()
            clear(trained + others + alphas)
            loss, step["train_correct"] = loss_of(net, batches.get("train", number))
            loss.backward()
            step["train_loss"] = float(loss)
            if stage == "score":
                closest = min(closest, margin(scores, case["density"]))
                norm = torch.nn.utils.clip_grad_norm_(trained, case["clip"])
                torch.nn.utils.clip_grad_norm_(others, case["clip"])
            else:
                norm = torch.nn.utils.clip_grad_norm_(trained + others, case["clip"])
            step["norm"] = float(norm)
            before = {name: w.detach().clone() for name, w in p.weights.items()}
            sgd.step()
            if stage == "finetune":  # no decay of what is pruned, which is the only thing that could have moved it
                with torch.no_grad():
                    for name, w in p.weights.items():
                        w.copy_(torch.where(masks[name] > 0, w, before[name]))
            out["steps"].append(step)
            number += 1
        if stage == "score":
            out["margin"] = min(closest, margin(scores, case["density"]))
            out["scores"] = sums(scores)
        if stage == "finetune":
            out["kept"] = kept(masks)
        out["parameters"] = {**sums(p.weights), **sums(p.others)}
        out["alpha"] = {kind: a.detach().flatten().tolist() for kind, a in net.alpha.items()}
        result["stages"].append(out)
    return result


def training(case):
    """Dense training of a discrete network, then evaluation by running statistics of a batch it was not trained on."""
    nets = {"cells": lambda: Cells(case, json.load(open(os.path.join(ROOT, case["genotype"])))),
            "mobilenet_v2": lambda: MobileNetV2(case), "resnet18": lambda: ResNet18(case)}
    net, batches = nets[case["net"]](), Batches(case)
    loss_of(net, batches.get("train", 0))
    p = net.p
    parameters = list(p.weights.values()) + list(p.others.values())
    sgd = torch.optim.SGD(parameters, lr=case["lr"], momentum=case["momentum"], weight_decay=case["decay"])
    result = {"initial": {**sums(p.weights), **sums(p.others)}, "steps": []}
    net.track = True
    for number in range(case["steps"]):
        clear(parameters)
        loss, correct = loss_of(net, batches.get("train", number))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, case["clip"])
        sgd.step()
        result["steps"].append({"train_loss": float(loss), "train_correct": correct, "norm": float(norm)})
    result["parameters"] = {**sums(p.weights), **sums(p.others)}
    for name, (mean, var) in p.running.items():
        result["parameters"].update(sums({name + ".running_mean": mean, name + ".running_var": var}))
    net.training = False
    with torch.no_grad():
        loss, correct = loss_of(net, batches.get("val", 0))
    result["eval"] = {"eval_loss": float(loss), "eval_correct": correct}
    return result


def second_order(case):
    """The unrolled gradient of alpha with DARTS's difference quotient, from momenta of zero and from others.

    w' = w - xi (momentum m + dL_train/dw + decay w);   v = dL_val(w')/dw';   eps = 0.01 / |v|
    gradient = dL_val(w')/dalpha - xi (dL_train(w + eps v)/dalpha - dL_train(w - eps v)/dalpha) / (2 eps)
    """
    net, batches = Cells(case), Batches(case)
    train, val = batches.get("train", 0), batches.get("val", 0)
    loss_of(net, train)
    p = net.p
    theta = list(p.weights.values()) + list(p.others.values())
    names = list(p.weights) + list(p.others)
    alphas = list(net.alpha.values())
    start = [t.detach().clone() for t in theta]

    def at(values):
        with torch.no_grad():
            for t, value in zip(theta, values):
                t.copy_(value)

    def flat(gradients):
        return torch.cat([g.flatten() for g in gradients])

    result = {"cases": []}
    for momenta in ("zero", "names"):
        m = [torch.zeros_like(t) for t in theta]
        if momenta == "names":
            m = [tensor(0.1 * signed(case["salt"], "momentum." + name, t.numel())).reshape(t.shape)
                 for name, t in zip(names, theta)]
        at(start)
        loss, _ = loss_of(net, train)
        gradients = torch.autograd.grad(loss, theta)
        at([t - case["xi"] * (case["momentum"] * mi + g + case["decay"] * t)
            for t, mi, g in zip(start, m, gradients)])
        val_loss, _ = loss_of(net, val)
        everything = torch.autograd.grad(val_loss, alphas + theta)
        direct, v = flat(everything[:2]), everything[2:]
        norm2 = float(sum((g**2).sum() for g in v))
        eps = 0.01 / math.sqrt(norm2)
        sides = []
        losses = []
        for sign in (1.0, -1.0):
            at([t + sign * eps * g for t, g in zip(start, v)])
            side, _ = loss_of(net, train)
            losses.append(float(side))
            sides.append(flat(torch.autograd.grad(side, alphas)))
        quotient = (sides[0] - sides[1]) / (2.0 * eps)
        result["cases"].append({
            "momenta": momenta, "train_loss": float(loss), "unrolled_val_loss": float(val_loss), "norm2": norm2,
            "train_loss_plus": losses[0], "train_loss_minus": losses[1], "direct": direct.tolist(),
            "plus": sides[0].tolist(), "minus": sides[1].tolist(),
            "alpha_gradient": (direct - case["xi"] * quotient).tolist()})
    return result


COMMON = {"batch": 6, "image": 8, "classes": 3, "in_channels": 3, "mean": [0.5, 0.4, 0.45], "std": [0.25, 0.2, 0.3],
          "batches": 2, "momentum": 0.9, "decay": 3e-4, "clip": 5.0}
SUPERNET = {**COMMON, "net": "supernet", "channels": 4, "layers": 3, "nodes": 2}
# The clip is low enough to be met in every stage.
SEARCH = {**SUPERNET, "steps": 8, "lr": 0.025, "lr_score": 0.1, "density": 0.3, "clip": 1.25,
          "lr_alpha": 0.01, "betas": [0.5, 0.999], "adam_eps": 1e-8, "decay_alpha": 1e-3}
CASES = {
    # This salt, of a dozen: masks that leave whole channels without weights, and no score so near a threshold ("margin"
    # in the file) that float would choose another mask.
    "search": (search, {**SEARCH, "salt": "search2"}),
    "cells": (training, {**COMMON, "salt": "cells", "net": "cells", "genotype": "configs/genotypes/dass_99.json",
                         "channels": 4, "layers": 3, "nodes": 4, "steps": 8, "lr": 0.025}),
    # Small steps and all of eight images a batch: float follows these two for three steps, and others not for two.
    "mobilenet_v2": (training, {**COMMON, "salt": "mobilenet_v2", "net": "mobilenet_v2", "batch": 8, "image": 16,
                                "steps": 3, "lr": 0.005}),
    "resnet18": (training, {**COMMON, "salt": "resnet18", "net": "resnet18", "batch": 8, "image": 8, "steps": 3,
                            "lr": 0.005}),
    "second_order": (second_order, {**SUPERNET, "salt": "second_order", "xi": 0.025}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--out", default=os.path.join(ROOT, "tests/golden"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float", action="store_true", help="compare float32 with the files instead of writing them")
    args = parser.parse_args()
    for name in args.names:
        if name not in CASES:
            parser.error(f"'{name}' is not one of {', '.join(CASES)}")
    torch.set_num_threads(args.threads)
    if args.float:
        global REAL
        REAL = torch.float32
    os.makedirs(args.out, exist_ok=True)
    for name in args.names or CASES:
        make, case = CASES[name]
        words = [f"{int(z):016x}" for z in numbers(case["salt"], "check", 4)]
        path = os.path.join(args.out, name + ".json")
        if args.float:
            with open(path, encoding="ascii") as f:
                compare(name, make(case), json.load(f))
            continue
        result = {"case": case, "check": words, **make(case)}
        with open(path, "w", encoding="ascii") as f:
            f.write(to_text(result) + "\n")
        print(f"golden: {path}: {os.path.getsize(path)} bytes", file=sys.stderr)


def compare(where, got, want):
    """Print the steps of two results with their relative differences, and the largest ones of what lies beside them."""
    rest = 0.0
    for key, value in got.items():
        if key in ("steps", "stages"):
            for i, pair in enumerate(zip(value, want[key])):
                compare(f"{where} {key} {i}", *pair)
        elif key in ("parameters", "scores"):
            for name, (total, square) in value.items():  # sums in units of their bound, as in the test, with n left out
                known = want[key][name]
                rest = max(rest, abs(square - known[1]) / (known[1] + 1e-30),
                           abs(total - known[0]) / math.sqrt(known[1] + 1e-30))
        elif isinstance(value, float):
            print(f"{where}: {key} {value:.9g}, off by {abs(value - want[key]) / abs(want[key]):.1e}")
        elif isinstance(value, dict) and "eval_loss" in value:
            compare(f"{where} {key}", value, want[key])
        elif value != want[key] and isinstance(value, (int, str)):
            print(f"{where}: {key} {value} instead of {want[key]}")
    if rest > 0.0:
        print(f"{where}: tensors off by up to {rest:.1e}")


def to_text(value, indent=0):
    """JSON, one entry of an object a line, lists of plain values on one line."""
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        entries = [f"{pad}{json.dumps(k)}: {to_text(v, indent + 1)}" for k, v in value.items()]
        flat = all(not isinstance(v, (dict, list)) for v in value.values())
        if flat and len(value) <= 8:
            return json.dumps(value, allow_nan=False)
        return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return "[\n" + ",\n".join(pad + to_text(v, indent + 1) for v in value) + "\n" + " " * indent + "]"
    return json.dumps(value, allow_nan=False)


if __name__ == "__main__":
    main()
