#!/usr/bin/env python3
"""The DARTS supernet's search step in PyTorch, timed against `dass bench step` in one run, interleaved.

    tools/torch_step.py [--rounds 3] [--threads 2] [--dass build/dass] [--no-dass] [--json]
    tools/torch_step.py --device cuda [--tf32 | --bf16] [--compile] [--cuda-graph]

An honest rival: channels_last throughout, inplace ReLU only where DARTS has none to break, gradients set to None, first
order (validation batch -> alpha by Adam, then training batch -> weights by SGD with clipping). --cuda-graph records the
whole step, both optimisers in it, and replays it: what PyTorch costs without the time to launch. One round is one PyTorch
step (on a GPU the mean of ten, its batches lying there already, cuDNN's search for the best engine on) after warm-up
steps, then `dass bench step` on the same machine while PyTorch sleeps. Ratios are taken inside a round; best and median
over rounds are printed. Needs torch (Debian: python3-torch); nothing of dass needs it.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
       "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")


def batch_norm(c, affine=False):
    return nn.BatchNorm2d(c, affine=affine)


class SepHalf(nn.Sequential):
    def __init__(self, c, k, stride, dil=1):
        pad = dil * (k - 1) // 2
        super().__init__(nn.ReLU(),
                         nn.Conv2d(c, c, k, stride, pad, dil, groups=c, bias=False),
                         nn.Conv2d(c, c, 1, bias=False), batch_norm(c))


class FactorizedReduce(nn.Module):
    def __init__(self, c_in, c):
        super().__init__()
        self.a = nn.Conv2d(c_in, c // 2, 1, stride=2, bias=False)
        self.b = nn.Conv2d(c_in, c - c // 2, 1, stride=2, bias=False)
        self.bn = batch_norm(c)

    def forward(self, x):
        x = F.relu(x)
        return self.bn(torch.cat([self.a(x), self.b(x[:, :, 1:, 1:])], 1))


def make_op(name, c, stride):
    if name.endswith("pool_3x3"):
        pool = nn.MaxPool2d(3, stride, 1) if name[0] == "m" else \
            nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, batch_norm(c))
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(c, c)
    k = int(name[-1])
    if name.startswith("sep"):
        return nn.Sequential(SepHalf(c, k, stride), SepHalf(c, k, 1))
    return SepHalf(c, k, stride, 2)


class MixedOp(nn.Module):
    """`none` contributes nothing and is not computed."""

    def __init__(self, c, stride):
        super().__init__()
        self.ops = nn.ModuleList(make_op(n, c, stride) for n in OPS[1:])

    def forward(self, x, w):
        return sum(w[i + 1] * op(x) for i, op in enumerate(self.ops))


class Preprocess(nn.Sequential):
    def __init__(self, c_in, c):
        super().__init__(nn.ReLU(), nn.Conv2d(c_in, c, 1, bias=False), batch_norm(c))


class Cell(nn.Module):
    def __init__(self, c_pp, c_p, c, reduction, reduction_prev, nodes=4):
        super().__init__()
        self.nodes = nodes
        self.pre0 = FactorizedReduce(c_pp, c) if reduction_prev else Preprocess(c_pp, c)
        self.pre1 = Preprocess(c_p, c)
        self.edges = nn.ModuleList(MixedOp(c, 2 if reduction and j < 2 else 1)
                                   for i in range(nodes) for j in range(2 + i))

    def forward(self, s0, s1, w):
        states = [self.pre0(s0), self.pre1(s1)]
        e = 0
        for _ in range(self.nodes):
            states.append(sum(self.edges[e + j](h, w[e + j]) for j, h in enumerate(states)))
            e += len(states) - 1
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    def __init__(self, c=16, layers=8, nodes=4, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * c, 3, padding=1, bias=False), batch_norm(3 * c, True))
        n_edges = sum(2 + i for i in range(nodes))
        self.cells = nn.ModuleList()
        c_pp, c_p, reduction_prev = 3 * c, 3 * c, False
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            c = 2 * c if reduction else c
            cell = Cell(c_pp, c_p, c, reduction, reduction_prev, nodes)
            cell.reduction = reduction
            self.cells.append(cell)
            c_pp, c_p, reduction_prev = c_p, nodes * c, reduction
        self.classifier = nn.Linear(c_p, classes)
        self.alphas = [torch.zeros(n_edges, len(OPS)).normal_(0, 1e-3).requires_grad_() for _ in range(2)]

    def forward(self, x):
        w = [F.softmax(a, 1) for a in self.alphas]
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, w[cell.reduction])
        return self.classifier(s1.mean((2, 3)))


class Step:
    def __init__(self, args):
        torch.manual_seed(0)
        self.device = args.device
        self.net = Supernet(args.channels, args.layers).to(args.device, memory_format=torch.channels_last).train()
        self.net.alphas = [a.detach().to(args.device).requires_grad_() for a in self.net.alphas]
        self.forward = torch.compile(self.net) if args.compile else self.net
        self.bf16 = args.bf16
        self.repeats = 10 if args.device == "cuda" else 1
        self.weights = list(self.net.parameters())
        self.sgd = torch.optim.SGD(self.weights, 0.025, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(self.net.alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3,
                                     **({"capturable": True} if args.cuda_graph else {}))
        self.x = torch.randn(args.batch, 3, 32, 32).to(args.device, memory_format=torch.channels_last)
        self.y = torch.randint(0, 10, (args.batch,)).to(args.device)

    def loss(self):
        if not self.bf16:
            return F.cross_entropy(self.forward(self.x), self.y)
        with torch.autocast(self.device, torch.bfloat16):  # parameters and sums stay fp32 there too
            return F.cross_entropy(self.forward(self.x), self.y)

    def arch(self):
        for w in self.weights:
            w.requires_grad_(False)
        self.adam.zero_grad(set_to_none=True)
        self.loss().backward()
        self.adam.step()
        for w in self.weights:
            w.requires_grad_(True)

    def weight(self):
        for a in self.net.alphas:
            a.requires_grad_(False)
        self.sgd.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.weights, 5)
        self.sgd.step()
        for a in self.net.alphas:
            a.requires_grad_(True)

    def whole(self):
        self.arch()
        self.weight()

    def record(self):
        """The function that replays the step. Its gradients live in the recording's own memory, so none may be left
        from before; the warm-up on another stream makes the state of the optimisers and chooses cuDNN's engines."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.whole()
        torch.cuda.current_stream().wait_stream(side)
        self.sgd.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.whole()
        return graph.replay

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self, f):
        """Milliseconds of one call."""
        self.wait()
        t = time.perf_counter()
        for _ in range(self.repeats):
            f()
        self.wait()
        return 1e3 * (time.perf_counter() - t) / self.repeats


def precision(args):
    return "bf16" if args.bf16 else "tf32" if args.tf32 else "fp32"


def dass_step(args):
    cmd = [args.dass, "bench", "step", "-c", args.config, "--set", f"run.threads={args.threads}", "--json",
           "--set", f"net.channels={args.channels}", "--set", f"net.layers={args.layers}",
           "--set", f"train.batch={args.batch}"]
    if args.device == "cuda":
        cmd += ["--device", "cuda", "--seconds", "3", "--set", "run.precision=" + precision(args)]
    return json.loads(subprocess.run(cmd, check=True, stdout=subprocess.PIPE).stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--channels", type=int, default=16)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--dass", default="build/dass")
    p.add_argument("--config", default="configs/search_cifar10.yaml")
    p.add_argument("--no-dass", action="store_true")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    g = p.add_mutually_exclusive_group()
    g.add_argument("--tf32", action="store_true", help="on both sides; cuda only")
    g.add_argument("--bf16", action="store_true", help="activations, on both sides (PyTorch: autocast); cuda only")
    p.add_argument("--compile", action="store_true", help="torch.compile the network (minutes)")
    p.add_argument("--cuda-graph", action="store_true", help="record the step once and replay it; cuda only")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    if args.cuda_graph and args.device != "cuda":
        p.error("--cuda-graph needs --device cuda")
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = True
    step = Step(args)
    n_weights = sum(w.numel() for w in step.weights)
    print(f"# torch {torch.__version__}, {args.threads} threads, channels_last, {n_weights} parameters", file=sys.stderr)
    for _ in range(1 if args.device == "cpu" else 3):
        step.whole()
    run = step.record() if args.cuda_graph else step.whole
    rows = []
    for r in range(args.rounds):
        row = {"torch_ms": step.timed(run)}
        if not args.no_dass:
            row["dass_ms"] = dass_step(args)["step_ms"]
            row["ratio"] = row["torch_ms"] / row["dass_ms"]
        rows.append(row)
        print("# round %d: " % (r + 1) + "  ".join(f"{k} {v:.4g}" for k, v in row.items()), file=sys.stderr)
    peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
    out = {"torch": torch.__version__, "threads": args.threads, "batch": args.batch, "device": args.device,
           "precision": precision(args), "compile": args.compile, "cuda_graph": args.cuda_graph,
           "torch_peak_rss_bytes": peak, "rounds": rows}
    if args.device == "cuda":
        out["torch_peak_device_bytes"] = torch.cuda.max_memory_allocated()
    for key in rows[0]:
        values = [row[key] for row in rows]
        out[key] = {"median": statistics.median(values), "best": (max if key == "ratio" else min)(values)}
    if args.json:
        print(json.dumps(out))
    else:
        for key in rows[0]:
            print(f"{key:16s} median {out[key]['median']:10.4g}   best {out[key]['best']:10.4g}")


if __name__ == "__main__":
    main()
