"""Whole commands from their settings to their last line: train, prune of what train left, search. Data, orders, crops
and dropped paths are those of the seed. A file holds the settings, which the C test gives to the command itself, the
lines of metrics.jsonl, and the sums of every tensor of the last checkpoint."""
import math
import warnings

import torch
import torch.nn.functional as F

import draws
from nets import PRIMITIVES, Cells, clear, loss_of, scaled_scores, sums
from extras import GENOTYPE

warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step")


def parsed(lines):
    def value(text):
        if text in ("true", "false"):
            return text == "true"
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            return text
    return {key: value(text) for key, text in (line.split("=", 1) for line in lines)}


def rates(optimiser, epochs, warmup, least):
    """Linear from peak / (warmup + 1), then half a cosine from peak to `least` over the other epochs."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(epochs - warmup, 1), eta_min=least)
    if warmup == 0:
        return cosine
    linear = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0 / (warmup + 1), total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optimiser, [linear, cosine], milestones=[warmup])


# ---- masks ----------------------------------------------------------------------------------------------------------

def is_auxiliary(name):
    return name.startswith("auxiliary.")


def kept_counts(weights, density, allocation):
    """Per tensor; every allocation keeps uniform's total. erk: in proportion to the sum of the four sizes, full tensors
    set aside; what rounding down leaves goes to the largest fractions, the earlier of equals first."""
    sizes = {name: w.numel() for name, w in weights.items()}
    uniform = {name: n - math.floor((1.0 - density) * n) for name, n in sizes.items()}
    if allocation == "uniform":
        return uniform
    assert allocation == "erk"
    total = sum(uniform.values())
    full = set()
    while True:
        free = [name for name in sizes if name not in full]
        budget = total - sum(sizes[name] for name in full)
        scale = budget / sum(sum(weights[name].shape) for name in free)
        want = {name: scale * sum(weights[name].shape) for name in free}
        more = {name for name in free if want[name] >= sizes[name]}
        if not more:
            break
        full |= more
    counts = {name: sizes[name] if name in full else math.floor(want[name]) for name in sizes}
    by_fraction = sorted(free, key=lambda name: counts[name] - want[name])
    for name in by_fraction[:total - sum(counts.values())]:
        counts[name] += 1
    return counts


class Kept(torch.autograd.Function):
    """TopK with a count instead of a density."""

    @staticmethod
    def forward(ctx, magnitude, count):
        flat = magnitude.flatten()
        mask = torch.ones_like(flat)
        mask[torch.sort(flat, stable=True).indices[:flat.numel() - count]] = 0.0
        return mask.reshape(magnitude.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def hexadecimal(mask):
    """Bit i of the mask is bit i % 4 of digit i / 4."""
    bits = [int(b) for b in mask.flatten()]
    bits += [0] * (-len(bits) % 4)
    return "".join("%x" % sum(bits[i + k] << k for k in range(4)) for i in range(0, len(bits), 4))


# ---- the run of a command -------------------------------------------------------------------------------------------

class Run:
    def __init__(self, command, settings, net):
        s = self.s = settings
        self.command, self.net, self.seed = command, net, s["run.seed"]
        self.metrics, self.alphas = [], []
        self.epochs_done = self.steps_done = 0
        self.scores, self.masks, self.average = {}, {}, {}
        size, channels, classes = s["net.image"], s["net.in_channels"], s["net.classes"]
        self.augmentation = {"pad": s["data.pad"], "flip": s["data.flip"], "cutout": s["data.cutout"],
                             "mean": [0.5] * channels, "std": [0.29] * channels}
        self.plain = {**self.augmentation, "pad": 0, "flip": False, "cutout": 0}
        self.images, self.labels = draws.random_images(self.seed, "random train", s["data.limit"], size, channels,
                                                       classes)
        self.test_images, self.test_labels = draws.random_images(self.seed, "random test", s["data.test_limit"], size,
                                                                 channels, classes)
        self.adam = None
        with torch.no_grad():  # makes the parameters
            net.logits(draws.augment(self.images[:2], [0, 1], self.seed, 0, self.plain))
        self.p = net.p

    def source(self, name, index):
        return draws.Source(self.seed, name, index, self.s["train.batch"])

    def batch(self, source, number):
        samples = source.samples(self.epochs_done, number)
        x = draws.augment(self.images[samples], samples, self.seed, self.epochs_done, self.augmentation)
        return samples, (x, torch.from_numpy(self.labels[samples]))

    def show(self, kind):
        """The weights that the network reads. The auxiliary head is never masked."""
        if kind == "dense":
            self.p.shown = None
            return
        self.p.shown = {}
        for name, w in self.p.weights.items():
            if is_auxiliary(name):
                self.p.shown[name] = w if kind == "finetune" else w.detach()
            elif kind == "score":
                self.p.shown[name] = w.detach() * Kept.apply(self.scores[name].abs(), self.counts[name])
            else:
                self.p.shown[name] = w * self.masks[name]

    def start_scores(self, density, allocation):
        self.scores = scaled_scores(self.p.weights)
        pruned = {name: w for name, w in self.p.weights.items() if not is_auxiliary(name)}
        self.counts = kept_counts(pruned, density, allocation)
        self.margin = math.inf

    def look_at_margin(self):
        """The smallest gap between a kept and a dropped score, in units of the tensor's largest."""
        for name, count in self.counts.items():
            m = self.scores[name].detach().abs().flatten().sort().values
            if 0 < count < len(m):
                self.margin = min(self.margin, float((m[-count] - m[-count - 1]) / m[-1]))

    def freeze(self):
        self.look_at_margin()
        self.masks = {name: Kept.apply(self.scores[name].detach().abs(), count)
                      for name, count in self.counts.items()}

    def alpha_step(self, kind, batch):
        net = self.net
        if self.adam is None:
            s = self.s
            self.adam = torch.optim.Adam(net.alpha.values(), lr=s["search.alpha.lr"], eps=1e-8,
                                         betas=(s["search.alpha.beta1"], s["search.alpha.beta2"]),
                                         weight_decay=s["search.alpha.weight_decay"])
        self.show(kind)
        loss, correct = loss_of(net, batch)
        gradients = torch.autograd.grad(loss, list(net.alpha.values()))
        for a, g in zip(net.alpha.values(), gradients):
            a.grad = g
        self.adam.step()
        return float(loss.detach()), correct

    def weight_step(self, kind, batch, trained, others, optimiser, extras):
        net = self.net
        self.show(kind)
        clear(trained + others)
        net.track = True
        loss, correct = loss_of(net, batch, extras.get("smoothing", 0.0))
        total = loss
        if extras.get("auxiliary", 0.0) > 0.0:
            second = F.cross_entropy(net.aux_logits, batch[1], label_smoothing=extras["smoothing"])
            total = loss + extras["auxiliary"] * second
        net.track = False
        total.backward()
        for t in trained:  # scores of the auxiliary head
            if t.grad is None:
                t.grad = torch.zeros_like(t)
        clip = extras["clip"]
        if kind == "score":
            self.look_at_margin()
            torch.nn.utils.clip_grad_norm_(trained, clip)
            torch.nn.utils.clip_grad_norm_(others, clip)
        else:
            torch.nn.utils.clip_grad_norm_(trained + others, clip)
        before = {name: self.p.weights[name].detach().clone() for name in self.masks}
        optimiser.step()
        with torch.no_grad():  # what is pruned has no gradient; nor does it decay
            for name, w in before.items():
                self.p.weights[name].copy_(torch.where(self.masks[name] > 0, self.p.weights[name], w))
        return float(loss.detach()), correct

    def follow_average(self, decay, step):
        decay = min(decay, step / (10.0 + step))
        for name, t in self.state().items():
            old = self.average.get(name, torch.zeros_like(t))
            self.average[name] = decay * old + (1.0 - decay) * t

    def state(self):
        named = {**self.p.weights, **self.p.others, **self.p.statistics_by_name()}
        return {name: t.detach().clone() for name, t in named.items()}

    def stage(self, name, kind, epochs, peak, peak_others, least, weights, validation=None, warmup=0, **extras):
        """peak: of what is trained, weights or scores; peak_others: of batch norms and biases."""
        s, batch = self.s, self.s["train.batch"]
        trained = list((self.scores if kind == "score" else self.p.weights).values())
        others = list(self.p.others.values())
        optimiser = torch.optim.SGD([{"params": trained, "lr": peak}, {"params": others, "lr": peak_others}], lr=peak,
                                    momentum=extras["momentum"], weight_decay=extras["decay"])
        schedule = rates(optimiser, epochs, warmup, least)
        for epoch in range(epochs):
            lr = optimiser.param_groups[0]["lr"]
            p_drop = extras.get("drop_path", 0.0) * min(epoch / extras.get("drop_path_epochs", 1), 1.0)
            sums_ = {"train": [0.0, 0], "val": [0.0, 0]}
            for step in range(weights.steps):
                if validation:
                    self.net.drop, self.net.auxiliary = None, False
                    loss, correct = self.alpha_step(kind, self.batch(validation, step)[1])
                    sums_["val"][0] += loss
                    sums_["val"][1] += correct
                samples, data = self.batch(weights, step)
                self.net.auxiliary = extras.get("auxiliary", 0.0) > 0.0
                self.net.drop = None if p_drop == 0.0 else lambda x, edge, samples=samples: draws.drop_path(
                    x, samples, self.seed, self.epochs_done, self.steps_done, edge, p_drop)
                loss, correct = self.weight_step(kind, data, trained, others, optimiser, extras)
                sums_["train"][0] += loss
                sums_["train"][1] += correct
                if extras.get("ema", 0.0) > 0.0:
                    self.follow_average(extras["ema"], epoch * weights.steps + step)
                self.steps_done += 1
            schedule.step()
            n = weights.steps
            line = {"command": self.command, "stage": name, "epoch": epoch + 1, "epochs": epochs, "steps": n,
                    "train_loss": sums_["train"][0] / n, "train_top1": sums_["train"][1] / (n * batch), "lr": lr}
            if validation:
                line.update({"val_loss": sums_["val"][0] / n, "val_top1": sums_["val"][1] / (n * batch)})
                line.update(self.about_alpha())
                self.alphas.append({kind: a.detach().tolist() for kind, a in self.net.alpha.items()})
            self.metrics.append(line)
            self.epochs_done += 1

    def about_alpha(self):
        rows = torch.cat(list(self.net.alpha.values())).detach()
        p = torch.softmax(rows, dim=1)
        genotype = derive(self.net.alpha, self.s["net.nodes"])
        return {"alpha_entropy": float(-(p * p.log()).sum(dim=1).mean()),
                "skips_normal": sum(op == "skip_connect" for op, _ in genotype["normal"]),
                "skips_reduce": sum(op == "skip_connect" for op, _ in genotype["reduce"]), "genotype": genotype}

    def finish(self):
        """The average, if there is one, becomes the network; then the test images with running statistics."""
        p, net = self.p, self.net
        checkpoint = self.checkpoint()
        with torch.no_grad():
            for name, t in {**p.weights, **p.others, **p.statistics_by_name()}.items():
                if self.average:
                    t.copy_(self.average[name])
            net.drop, net.auxiliary, net.training = None, False, False
            self.show("finetune" if self.masks else "dense")
            x = draws.augment(self.test_images, range(len(self.test_images)), self.seed, 0, self.plain)
            loss, correct = loss_of(net, (x, torch.from_numpy(self.test_labels)))
        n = len(self.test_labels)
        self.metrics.append({"command": self.command, "stage": "test", "test_loss": float(loss),
                             "test_top1": correct / n, "images": n})
        return checkpoint

    def checkpoint(self):
        out = sums(self.state())
        out.update(sums({"ema." + name: t for name, t in self.average.items()}))
        out.update(sums({"score." + name: t for name, t in self.scores.items()}))
        return out

    def mask_bits(self):
        return {name: hexadecimal(mask) for name, mask in self.masks.items()}


def derive(alpha, nodes):
    """Per node the two edges with the largest weight of an operation other than none, each with that operation."""
    cells = {}
    for kind, a in alpha.items():
        share = torch.softmax(a.detach(), dim=1)[:, 1:]
        best = share.max(dim=1)
        genes, first = [], 0
        for node in range(nodes):
            edges = sorted(range(node + 2), key=lambda e, first=first: -float(best.values[first + e]))
            genes += [[PRIMITIVES[1 + int(best.indices[first + e])], e] for e in edges[:2]]
            first += node + 2
        cells[kind] = genes
    concat = list(range(2, 2 + nodes))
    return {"version": 1, "normal": cells["normal"], "normal_concat": concat,
            "reduce": cells["reduce"], "reduce_concat": concat}


# ---- the commands ---------------------------------------------------------------------------------------------------

def network(settings, genotype):
    case = {"channels": settings["net.channels"], "layers": settings["net.layers"], "nodes": settings["net.nodes"],
            "classes": settings["net.classes"]}
    return Cells(case, genotype, draws.FromSeed(settings["run.seed"]))


def train_run(case):
    s = parsed(case["settings"])
    net = network(s, case["genotype"])
    net.auxiliary = s["train.auxiliary"] > 0.0
    run = Run("train", s, net)
    run.stage("dense", "dense", s["train.epochs"], s["train.lr"], s["train.lr"], s["train.lr_min"],
              run.source("train", range(s["data.limit"])), warmup=s["train.warmup"], **shared(s), ema=s["train.ema"])
    checkpoint = run.finish()
    return run, checkpoint


def shared(s):
    return {"momentum": s["train.momentum"], "decay": s["train.weight_decay"], "clip": s["train.clip"],
            "smoothing": s["train.label_smoothing"], "auxiliary": s["train.auxiliary"],
            "drop_path": s["train.drop_path"], "drop_path_epochs": s["train.epochs"]}


def train(case):
    run, checkpoint = train_run(case)
    return {"metrics": run.metrics, "checkpoint": checkpoint, "result": sums(run.state())}


def prune(case):
    """Of what train left, which its parameter file holds as float."""
    trained, _ = train_run(case)
    s = parsed(case["settings"])
    net = network(s, case["genotype"])
    net.auxiliary = s["train.auxiliary"] > 0.0
    run = Run("prune", s, net)
    named = {**run.p.weights, **run.p.others, **run.p.statistics_by_name()}
    with torch.no_grad():
        for name, t in trained.state().items():
            named[name].copy_(t.float().double())
    run.epochs_done = s["train.epochs"]
    source = run.source("train", range(s["data.limit"]))
    run.start_scores(s["prune.density"], s["prune.allocation"])
    run.stage("score", "score", s["prune.epochs.score"], s["prune.lr_score"], s["train.lr"], s["train.lr_min"], source,
              **shared(s))
    run.freeze()
    run.stage("finetune", "finetune", s["prune.epochs.finetune"], s["prune.lr_finetune"], s["prune.lr_finetune"],
              s["train.lr_min"], source, **shared(s), ema=s["train.ema"])
    checkpoint = run.finish()
    return {"metrics": run.metrics, "margin": run.margin, "kept": list(run.counts.values()), "masks": run.mask_bits(),
            "checkpoint": checkpoint, "result": sums(run.state())}


def search(case):
    s = parsed(case["settings"])
    run = Run("search", s, network(s, None))
    first, second = draws.split(run.seed, s["data.limit"], s["search.train_part"])
    halves = {"weights": run.source("train", first), "validation": run.source("validation", second)}
    common = {"momentum": s["search.momentum"], "decay": s["search.weight_decay"], "clip": s["search.clip"]}
    run.stage("dense", "dense", s["search.epochs.pretrain"], s["search.lr"], s["search.lr"], s["search.lr_min"],
              **halves, **common)
    run.start_scores(s["search.density"], s["search.allocation"])
    run.stage("score", "score", s["search.epochs.score"], s["search.lr_score"], s["search.lr"], s["search.lr_min"],
              **halves, **common)
    run.freeze()
    run.stage("finetune", "finetune", s["search.epochs.finetune"], s["search.lr"], s["search.lr"],
              s["search.lr_min"], **halves, **common)
    checkpoint = run.checkpoint()
    checkpoint.update(sums({"alpha." + kind: a for kind, a in run.net.alpha.items()}))
    return {"metrics": run.metrics, "margin": run.margin, "alphas": run.alphas,
            "genotype": derive(run.net.alpha, s["net.nodes"]), "masks": run.mask_bits(), "checkpoint": checkpoint}


DATA = ["data.name=random", "net.in_channels=3", "net.classes=3", "train.batch=6", "run.eval_batch=4",
        "data.flip=true"]
# Images of 32x32, so that the auxiliary head behind two reductions has its 8x8. The last images of an epoch do not
# fill a batch, the last of the test only a part of one.
TRAIN = [*DATA, "data.limit=15", "data.test_limit=7", "net.image=32", "net.channels=2", "net.layers=3", "net.nodes=2",
         "data.pad=3", "data.cutout=9", "run.seed=11", "train.epochs=4", "train.warmup=2", "train.lr=0.05",
         "train.lr_min=0.002", "train.momentum=0.9", "train.weight_decay=0.0003", "train.clip=2.5",
         "train.drop_path=0.3", "train.auxiliary=0.4", "train.ema=0.2", "train.label_smoothing=0.1"]
PRUNE = [*TRAIN, "prune.method=learned", "prune.density=0.3", "prune.allocation=erk", "prune.epochs.score=2",
         "prune.epochs.finetune=2", "prune.lr_score=0.1", "prune.lr_finetune=0.02"]
# Of 32 images 19 train weights in three steps; the 13 others are used up after two and begin anew.
SEARCH = [*DATA, "data.limit=32", "data.test_limit=4", "net.image=8", "net.channels=4", "net.layers=3", "net.nodes=2",
          "data.pad=1", "data.cutout=2", "run.seed=3", "search.method=dass", "search.order=1", "search.density=0.3",
          "search.allocation=uniform", "search.epochs.pretrain=2", "search.epochs.score=2",
          "search.epochs.finetune=2", "search.lr=0.025", "search.lr_score=0.1", "search.lr_min=0.001",
          "search.momentum=0.9", "search.weight_decay=0.0003", "search.clip=1.5", "search.alpha.lr=0.01",
          "search.alpha.beta1=0.5", "search.alpha.beta2=0.999", "search.alpha.weight_decay=0.001",
          "search.alpha.in_score=true", "search.train_part=0.6"]
CASES = {
    "command_train": (train, {"settings": TRAIN, "genotype": GENOTYPE}),
    "command_prune": (prune, {"settings": PRUNE, "genotype": GENOTYPE}),
    "command_search": (search, {"settings": SEARCH}),
}
