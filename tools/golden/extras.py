"""What training adds to a network, one by one and together, on a small network of cells: per step loss and norm, the
gradients of the first step, and the parameters after the last."""
import torch
import torch.nn.functional as F

import draws
from nets import Batches, Cells, clear, loss_of, sums
from steps import COMMON

OFF = {"smoothing": 0.0, "auxiliary": 0.0, "drop_path": 0.0, "ema": [], "pad": 0, "flip": False, "cutout": 0}


def run(case):
    seed, epoch = case["seed"], case["epoch"]
    net, batches = Cells(case, case["genotype"]), Batches(case)
    net.auxiliary = case["auxiliary"] > 0.0
    loss_of(net, batches.get("train", 0))  # makes the parameters
    p = net.p
    named = {**p.weights, **p.others}
    parameters = list(named.values())
    sgd = torch.optim.SGD(parameters, lr=case["lr"], momentum=case["momentum"], weight_decay=case["decay"])
    net.track = True
    result = {"steps": []}
    average = {}
    for number in range(case["steps"]):
        images, labels = batches.bytes("train", number)
        samples = [1000 * number + 7 * i for i in range(case["batch"])]
        if case["drop_path"] > 0.0:
            net.drop = lambda x, edge, samples=samples, number=number: draws.drop_path(
                x, samples, seed, epoch, number, edge, case["drop_path"])
        clear(parameters)
        x = draws.augment(images, samples, seed, epoch, case)
        loss, correct = loss_of(net, (x, labels), case["smoothing"])
        total = loss
        if net.auxiliary:
            total = loss + case["auxiliary"] * F.cross_entropy(net.aux_logits, labels,
                                                               label_smoothing=case["smoothing"])
        total.backward()
        if number == 0:
            result["gradients"] = sums({name: t.grad for name, t in named.items()})
        norm = torch.nn.utils.clip_grad_norm_(parameters, case["clip"])
        sgd.step()
        result["steps"].append({"train_loss": float(loss.detach()), "train_correct": correct, "norm": float(norm)})
        state = {name: t.detach() for name, t in {**named, **p.statistics_by_name()}.items()}
        if case["ema"]:
            decay = case["ema"][number]
            average = {name: decay * average.get(name, 0.0) + (1.0 - decay) * t for name, t in state.items()}
    result["parameters"] = sums(state)
    if average:
        result["average"] = sums(average)
    return result


def extras(case):
    runs = []
    for settings in case["runs"]:
        runs.append(run({**case, **OFF, **settings}))
    return {"runs": runs}


# Every operation, and identities of both strides: the one of stride 2 has weights and drops, the other never does.
GENOTYPE = {"version": 1,
            "normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ["dil_conv_5x5", 2], ["max_pool_3x3", 1]],
            "normal_concat": [2, 3],
            "reduce": [["skip_connect", 0], ["avg_pool_3x3", 1], ["skip_connect", 2], ["sep_conv_5x5", 0]],
            "reduce_concat": [2, 3]}
CELLS = {**COMMON, "net": "cells", "genotype": GENOTYPE, "channels": 4, "nodes": 2, "layers": 3, "steps": 3,
         "lr": 0.05, "clip": 2.0, "seed": 0x123456789abcdef, "epoch": 5}
# A head wants 8x8 pixels behind the reductions: one cell, and images of 16x16.
HEAD = {"image": 16, "layers": 1, "auxiliary": 0.4}
RUNS = [
    {"name": "auxiliary head", **HEAD},
    {"name": "label smoothing", "smoothing": 0.1, "layers": 1},
    {"name": "label smoothing with auxiliary head", "smoothing": 0.1, **HEAD},
    {"name": "drop-path", "drop_path": 0.3},
    {"name": "average", "ema": [0.0, 0.25, 0.9], "layers": 1},
    {"name": "pad, flip and cutout", "pad": 2, "flip": True, "cutout": 3, "layers": 1},
    {"name": "everything", "smoothing": 0.2, "drop_path": 0.2, "ema": [0.0, 0.5, 0.75], "pad": 1, "flip": True,
     "cutout": 5, **HEAD, "auxiliary": 0.7},
]
CASES = {"extras": (extras, {**CELLS, "salt": "extras", "runs": RUNS})}
