#!/usr/bin/env python3
"""The experiment on CIFAR-10: does an architecture searched for sparsity do better once it is sparse?

    tools/experiment.py --data DIR [--out runs/experiment] [CELL...]     run the cells that have no row yet
    tools/experiment.py --out runs/experiment --table                    print the table of the rows

A cell of the table is a run of its own that leaves its row as OUT/rows/CELL.json; a cell whose row exists is skipped,
and a cell that another one needs is run first. Cells:

    search:METHOD                    METHOD  dass | darts: 5 cells, C=8, density 0.01
    dense:NET:SEED                   NET     mobilenet_v2 | dass | darts (the cells that the searches found)
    prune:NET:ALLOCATION:SEED        ALLOCATION  uniform | erk

Every pruned network keeps as many weights as one in a hundred of MobileNet-v2's, or as close as the allocation's
rounding allows; the searched cells are stacked to about MobileNet-v2's multiply-accumulates. All share the recipe of
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
STACK = {"channels": 32, "layers": 5}  # of the searched cells: 70 to 100 million multiply-accumulates
NETS = ("mobilenet_v2", "darts", "dass")
ALLOCATIONS = ("uniform", "erk")


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

    def net(self, name):
        if name == "mobilenet_v2":
            return ["--net", name]
        genotype = os.path.join(self.folder(f"search:{name}"), "genotype.json")
        words = ["--genotype", genotype]
        for key, value in STACK.items():
            words += ["--set", f"net.{key}={value}"]
        return words

    def plan(self, words):
        return json.loads(self.run("plan", "-c", CONFIG, *words, "--json"))

    def density(self, name):
        """The density at which `name` keeps what the budget network keeps."""
        budget = self.plan([*BUDGET_NET, "--set", f"prune.density={BUDGET_DENSITY}"])["kept"]
        return round(budget / self.plan(self.net(name))["weights"], 6)

    def needs(self, cell):
        kind, *rest = cell.split(":")
        if kind == "prune":
            return [f"dense:{rest[0]}:{rest[2]}"]
        if kind == "dense" and rest[0] != "mobilenet_v2":
            return [f"search:{rest[0]}"]
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
        if kind == "search":
            self.run("search", *self.settings(f"search.method={rest[0]}"), "-o", folder)
            with open(os.path.join(folder, "genotype.json")) as file:
                row["genotype"] = json.load(file)
        elif kind == "dense":
            name, seed = rest
            self.run("train", *self.settings(f"run.seed={seed}"), *self.net(name), "-o", folder)
            row.update(self.evaluate(folder, name, int(seed), None))
        else:
            name, allocation, seed = rest
            dense = self.folder(f"dense:{name}:{seed}")
            self.run("prune", dense, "--set", f"prune.density={self.density(name)}", "--set",
                     f"prune.allocation={allocation}", "-o", folder)
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
            groups.setdefault((NETS.index(r["net"]), r["allocation"] or ""), []).append(r)
        print("| network | allocation | kept weights | never pruned | MACs dense | MACs sparse | top1 of each seed | mean |")
        print("|---|---|---|---|---|---|---|---|")
        for (net, allocation), group in sorted(groups.items()):
            group.sort(key=lambda r: r["seed"])
            tops = [100.0 * r["top1"] for r in group]
            one = group[0]
            print(f"| {NETS[net]} | {allocation or 'dense'} | {one['kept']:,} of {one['weights']:,} | {one['unpruned']:,} "
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
