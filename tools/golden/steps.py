"""Single steps and learning curves: the search in three stages, the training of discrete networks, the second order."""
import json
import math
import os

import torch

from nets import (Batches, Cells, MobileNetV2, ResNet18, TopK, clear, kept, loss_of, margin, scaled_scores, signed,
                  sums, tensor)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


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
            step["val_loss"] = float(loss.detach())
            adam.step()
            show()
            clear(trained + others + alphas)
            loss, step["train_correct"] = loss_of(net, batches.get("train", number))
            loss.backward()
            step["train_loss"] = float(loss.detach())
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
        result["steps"].append({"train_loss": float(loss.detach()), "train_correct": correct, "norm": float(norm)})
    result["parameters"] = {**sums(p.weights), **sums(p.others)}
    result["parameters"].update(sums(p.statistics_by_name()))
    net.training = False
    with torch.no_grad():
        loss, correct = loss_of(net, batches.get("val", 0))
    result["eval"] = {"eval_loss": float(loss.detach()), "eval_correct": correct}
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
            losses.append(float(side.detach()))
            sides.append(flat(torch.autograd.grad(side, alphas)))
        quotient = (sides[0] - sides[1]) / (2.0 * eps)
        result["cases"].append({
            "momenta": momenta, "train_loss": float(loss.detach()), "unrolled_val_loss": float(val_loss.detach()), "norm2": norm2,
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
