#!/usr/bin/env python3
"""The experiment on CIFAR-10: does an architecture searched for sparsity do better once it is sparse?

    tools/experiment.py --data DIR [--out runs/experiment] [CELL...]     run the cells that have no row yet
    tools/experiment.py --out runs/experiment --table                    print the table of the rows

A cell of the table is a run of its own that leaves its row as OUT/rows/CELL.json; a cell whose row exists is skipped,
and a cell that another one needs is run first. Cells:

    search:METHOD                    METHOD  dass | darts: 5 cells, C=8, density 0.01; random1, random2, ...: see below
    dense:NET:SEED                   NET     mobilenet_v2, or METHOD (the cell that its search found, C=32), or METHOD-cN
                                             (the same at C=N)
    small:NET:SEED                   the same trained for all the epochs of a dense and a pruned network together
    prune:NET:ALLOCATION:SEED        ALLOCATION  uniform | erk | global | floor; by learned scores
    oneshot:NET:ALLOCATION:SEED      by magnitude, at once
    gradual:NET:ALLOCATION:SEED      by magnitude, step by step

Every pruned network keeps as many weights as one in a hundred of MobileNet-v2's, or as close as the allocation's
rounding allows; the searched cells are stacked to about MobileNet-v2's multiply-accumulates. The random cells are the
first draws (seeds 1, 2, ...) that have, at some C, the weights of the dass cell within 2 %. All share the recipe of
configs/experiment_cifar10.yaml: same images, epochs, learning rates. The accuracy is that of the last epoch on all
10,000 test images. Needs python3 and a built dass, nothing else.
"""
import argparse
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, "configs", "experiment_cifar10.yaml")
BUDGET_NET = ["--net", "mobilenet_v2"]
BUDGET_DENSITY = 0.01
CHANNELS, LAYERS = 32, 5  # of the searched cells: 70 to 100 million multiply-accumulates
NETS = ("mobilenet_v2", "darts", "dass")
ALLOCATIONS = ("uniform", "erk")
PRUNE = {"prune": "learned", "oneshot": "oneshot", "gradual": "gradual"}
SMALL_EPOCHS = 14  # 8 dense, 2 of scores, 4 of finetuning


class Experiment:
    def __init__(self, args):
        self.dass = args.dass
        self.out = args.out
        self.data = args.data
        self.rows = os.path.join(args.out, "rows")
        os.makedirs(self.rows, exist_ok=True)

    def row_path(self, cell):
        return os.path.join(self.rows, cell.replace(":", "-") + ".json")

    def folder(self, cell):
        return os.path.join(self.out, cell.replace(":", "-"))

    def run(self, *words):
        """Run dass; its talk goes to our stderr, its result comes back."""
        done = subprocess.run([self.dass, *words], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"experiment: dass {words[0]} ended with status {done.returncode}")
        return done.stdout

    def settings(self, *pairs):
        words = ["-c", CONFIG, "--set", f"data.path={self.data}"]
        for pair in pairs:
            words += ["--set", pair]
        return words

    def genotype(self, method):
        """The file of the cell that a search found: its run folder's, or written out of its row."""
        path = os.path.join(self.folder(f"search:{method}"), "genotype.json")
        if not os.path.exists(path):
            with open(self.row_path(f"search:{method}")) as file:
                row = json.load(file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                json.dump(row["genotype"], file)
        return path

    def net(self, name):
        if name == "mobilenet_v2":
            return ["--net", name]
        method, _, channels = name.partition("-c")
        if not channels and method.startswith("random"):
            with open(self.row_path(f"search:{method}")) as file:
                channels = json.load(file)["channels"]
        return ["--genotype", self.genotype(method), "--set", f"net.channels={channels or CHANNELS}",
                "--set", f"net.layers={LAYERS}"]

    def draw(self, nth):
        """The nth random cell whose weights come within 2 % of the dass cell's at some number of channels."""
        self.make("search:dass")
        want = self.plan(self.net("dass"))["weights"]
        for seed in range(1, 1000):
            folder = os.path.join(self.out, f"draw-{seed}")
            self.run("search", *self.settings("search.method=random", f"run.seed={seed}"), "--quiet", "-o", folder)
            path = os.path.join(folder, "genotype.json")
            for channels in range(CHANNELS // 2, 2 * CHANNELS):
                weights = self.plan(["--genotype", path, "--set", f"net.channels={channels}",
                                     "--set", f"net.layers={LAYERS}"])["weights"]
                if weights > 1.02 * want:
                    break
                if weights >= 0.98 * want:
                    nth -= 1
                    if nth == 0:
                        with open(path) as file:
                            return {"genotype": json.load(file), "channels": channels, "weights": weights, "draw": seed}
                    break
        sys.exit("experiment: no such random cell among 1,000")

    def plan(self, words):
        return json.loads(self.run("plan", "-c", CONFIG, *words, "--json"))

    def density(self, name):
        """The density at which `name` keeps what the budget network keeps."""
        budget = self.plan([*BUDGET_NET, "--set", f"prune.density={BUDGET_DENSITY}"])["kept"]
        return round(budget / self.plan(self.net(name))["weights"], 6)

    def needs(self, cell):
        kind, *rest = cell.split(":")
        if kind in PRUNE:
            return [f"dense:{rest[0]}:{rest[2]}"]
        if kind in ("dense", "small") and rest[0] != "mobilenet_v2":
            return [f"search:{rest[0].partition('-c')[0]}"]
        return []

    def make(self, cell):
        if os.path.exists(self.row_path(cell)):
            return
        for other in self.needs(cell):
            self.make(other)
        kind, *rest = cell.split(":")
        folder = self.folder(cell)
        began = time.time()
        print(f"experiment: {cell} begins", file=sys.stderr, flush=True)
        row = {"cell": cell}
        if kind == "search" and rest[0].startswith("random"):
            row.update(self.draw(int(rest[0][len("random"):])))
        elif kind == "search":
            self.run("search", *self.settings(f"search.method={rest[0]}"), "-o", folder)
            with open(os.path.join(folder, "genotype.json")) as file:
                row["genotype"] = json.load(file)
        elif kind in ("dense", "small"):
            name, seed = rest
            pairs = [f"run.seed={seed}"] + ([f"train.epochs={SMALL_EPOCHS}"] if kind == "small" else [])
            self.run("train", *self.settings(*pairs), *self.net(name), "-o", folder)
            row.update(self.evaluate(folder, name, int(seed), None))
        else:
            name, allocation, seed = rest
            dense = self.folder(f"dense:{name}:{seed}")
            self.run("prune", dense, "--set", f"prune.density={self.density(name)}", "--set",
                     f"prune.allocation={allocation}", "--set", f"prune.method={PRUNE[kind]}", "-o", folder)
            row.update(self.evaluate(folder, name, int(seed), allocation))
        row["seconds"] = self.seconds(folder, time.time() - began)
        row["commit"] = self.run("info").split("\n")[0]
        temporary = self.row_path(cell) + ".tmp"
        with open(temporary, "w") as file:
            json.dump(row, file)
            file.write("\n")
        os.rename(temporary, self.row_path(cell))
        print(f"experiment: {cell} done: {json.dumps(row)}", file=sys.stderr, flush=True)

    def evaluate(self, folder, name, seed, allocation):
        found = json.loads(self.run("eval", folder, "--json", "--quiet"))
        found.update(run=os.path.basename(folder), net=name, seed=seed, allocation=allocation)
        return found

    def seconds(self, folder, elapsed):
        """Training time as the run recorded it, over all its parts when it was resumed; else the clock's."""
        path = os.path.join(folder, "times.jsonl")
        if not os.path.exists(path):
            return round(elapsed)
        with open(path) as file:
            return round(sum(json.loads(line).get("seconds", 0) for line in file))

    def read_rows(self):
        rows = []
        for name in sorted(os.listdir(self.rows)):
            if name.endswith(".json"):
                with open(os.path.join(self.rows, name)) as file:
                    rows.append(json.load(file))
        return rows

    def table(self):
        rows = [r for r in self.read_rows() if "top1" in r]
        groups = {}
        for r in rows:
            kind = r["cell"].split(":")[0]
            how = {"dense": "dense", "small": f"dense, {SMALL_EPOCHS} epochs"}.get(kind) or f"{PRUNE[kind]}, {r['allocation']}"
            groups.setdefault((r["net"], how), []).append(r)
        print("| network | how | kept weights | never pruned | MACs dense | MACs sparse | top1 of each seed | mean |")
        print("|---|---|---|---|---|---|---|---|")
        for (net, how), group in sorted(groups.items()):
            group.sort(key=lambda r: r["seed"])
            tops = [100.0 * r["top1"] for r in group]
            one = group[0]
            print(f"| {net} | {how} | {one['kept']:,} of {one['weights']:,} | {one['unpruned']:,} "
                  f"| {one['macs'] / 1e6:.1f} M | {one['sparse_macs'] / 1e6:.2f} M "
                  f"| {', '.join(f'{t:.2f}' for t in tops)} | {sum(tops) / len(tops):.2f} % |")
        hours = sum(r["seconds"] for r in self.read_rows()) / 3600.0
        print(f"\n{len(rows)} networks, {hours:.1f} hours in all.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dass", default=os.path.join(ROOT, "build", "dass"))
    parser.add_argument("--data", default=os.path.join(ROOT, "data", "cifar10"), help="folder of the CIFAR-10 files")
    parser.add_argument("--out", default=os.path.join(ROOT, "runs", "experiment"))
    parser.add_argument("--seeds", default="1,2", help="of the cells that are run when none is named")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("cells", nargs="*", metavar="CELL")
    args = parser.parse_args()
    experiment = Experiment(args)
    if args.table:
        experiment.table()
        return
    cells = args.cells or [f"prune:{net}:{allocation}:{seed}" for seed in args.seeds.split(",") for net in NETS
                           for allocation in ALLOCATIONS]
    for cell in cells:
        experiment.make(cell)


if __name__ == "__main__":
    main()
