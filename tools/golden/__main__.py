"""Golden values of tiny networks, computed by PyTorch in float64, for tests/test_golden.c and test_golden_run.c.

    python3 tools/golden [--out tests/golden] [--threads 1] [NAME ...]        default: every file
    python3 tools/golden --float [NAME ...]     writes nothing: how far PyTorch's own float32 strays from the files

What the method says is written down here a second time, on PyTorch's own layers, autograd and optimisers; nothing of
dass is imported, called or read but the genotypes under configs/. A file holds the settings of a case and what came out
of it. Needed only to make the files anew: torch (Debian: python3-torch) and numpy.

    nets.py      networks, parameters from names, masks
    steps.py     learning curves step by step: search, training, second order
    extras.py    the same for what training adds: auxiliary head, drop-path, averages, smoothing, augmentation
    draws.py     the counter-based random numbers: initial values, orders, data, crops, dropped paths
    commands.py  whole commands from a configuration to their last line: train, prune, search
"""
import argparse
import json
import math
import os
import sys

try:
    import torch
except ImportError as missing:
    sys.exit(f"golden: {sys.executable}: {missing}. This needs PyTorch (Debian: python3-torch, for /usr/bin/python3). "
             "The files it makes are in the repository, and the tests read them without it")

sys.dont_write_bytecode = True  # of the files beside this one, which lie in the source tree

import commands  # noqa: E402
import extras  # noqa: E402
import nets  # noqa: E402
import steps  # noqa: E402

CASES = {**steps.CASES, **extras.CASES, **commands.CASES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--out", default=os.path.join(steps.ROOT, "tests/golden"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float", action="store_true", help="compare float32 with the files instead of writing them")
    args = parser.parse_args()
    for name in args.names:
        if name not in CASES:
            parser.error(f"'{name}' is not one of {', '.join(CASES)}")
    torch.set_num_threads(args.threads)
    if args.float:
        nets.REAL = torch.float32
    os.makedirs(args.out, exist_ok=True)
    for name in args.names or CASES:
        make, case = CASES[name]
        path = os.path.join(args.out, name + ".json")
        if args.float:
            if name not in steps.CASES:
                continue
            with open(path, encoding="ascii") as f:
                compare(name, make(case), json.load(f))
            continue
        result = {"case": case, **make(case)}
        if "salt" in case:
            words = [f"{int(z):016x}" for z in nets.numbers(case["salt"], "check", 4)]
            result = {"case": case, "check": words, **result}
        with open(path, "w", encoding="ascii") as f:
            f.write(to_text(rounded(result)) + "\n")
        print(f"golden: {path}: {os.path.getsize(path)} bytes", file=sys.stderr)


def rounded(value):
    """Thirteen digits, more than any test asks for, so that hardly any byte depends on the version of PyTorch."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.13g}") if isinstance(value, float) else value


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
