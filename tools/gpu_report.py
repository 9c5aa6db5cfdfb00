"""The report of tools/gpu_check.py: JSON with everything, Markdown with what a person reads, a log with every output.

All three are whole files at any moment: they are rewritten after each step, beside their place and then moved there.
"""
import json
import os
import re
import shlex
import sys
import time

from gpu_run import ABSENT, NOT_RUN, OK

CIFAR_STEPS = 390 * 50  # of the 50-epoch search: 25,000 training images, batch 64
LOG_BYTES = 12 << 20  # no more outputs in the log after this: it has to travel
MD_LINES = 40  # of the output of what went wrong


def write_whole(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)


class Report:
    def __init__(self, folder, machine, commit, some):
        os.makedirs(folder, exist_ok=True)
        name = re.sub("[^A-Za-z0-9]+", "-", machine["device"]).strip("-").lower()
        self.path = os.path.join(folder, f"gpu-{name}-{commit}{some}")
        self.head = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine, "commit": commit,
                     "command": shlex.join(sys.argv), "state": "running", "programs": "", "notes": []}
        self.steps = []
        with open(self.path + ".log", "w"):
            pass

    def log(self, step, texts):
        """The output of a step, when it has ended."""
        with open(self.path + ".log", "a") as f:
            f.write(f"==== {step.name}\n==== {shlex.join(step.argv)}\n")
            if f.tell() > LOG_BYTES:
                texts = ["(left out: the log is long enough)\n"]
            for text in filter(None, texts):
                f.write(text if text.endswith("\n") else text + "\n")

    def data(self):
        out = dict(self.head, steps=[s.told() for s in self.steps], failed=[s.name for s in self.steps if s.bad()])
        out["timings"] = {s.key: s.result for s in self.steps if s.part in ("dense", "ways", "stages") and s.result}
        out["torch"] = {s.key: s.result for s in self.steps if s.part == "torch" and s.result}
        out["ncu"] = [row for s in self.steps if s.part == "ncu" for row in s.result or []]
        out["latency"] = [dict(row, density=float(s.key)) for s in self.steps if s.part == "latency"
                          for row in s.result or []]
        return out

    def write(self):
        data = self.data()
        write_whole(self.path + ".json", json.dumps(data, indent=1) + "\n")
        write_whole(self.path + ".md", markdown(data))


# ---- what a person reads ---------------------------------------------------------------------------------------------


def cell(text):
    return str(text).replace("|", "/").replace("\n", " ")


def head_of(r):
    m, count = r["machine"], {}
    for s in r["steps"]:
        count[s["state"]] = count.get(s["state"], 0) + 1
    yield f"# {m['device']}, dass {r['commit']}"
    yield ""
    yield f"{r['date']}. Driver {m['driver'] or '-'}, {m['nvcc'] or 'no nvcc'}, {m['cpus']} processors."
    yield f"Reproduce: `make gpu-check`, or `{r['command']}`. Programs: {r['programs'] or 'none yet'}."
    of = ", ".join(f"{n} {s}" for s, n in count.items())
    yield f"The run is {r['state']}. Of {len(r['steps'])} steps: {of}."
    for note in r["notes"]:
        yield ""
        yield note
    yield ""
    yield "| step | state | seconds |"
    yield "|---|---|---|"
    for s in r["steps"]:
        state = s["state"] + (f": {s['why']}" if s["why"] else "") + ("" if s["counts"] else " (does not count)")
        yield f"| {cell(s['name'])} | {cell(state)} | {s.get('seconds', '')} |"


def steps_of(r):
    yield "## Search step of the CIFAR-10 supernet (C=16, 8 cells, batch 64)"
    yield ""
    yield "| stage, precision | whole, ms (median, p90) | weights, alphas alone | images/s | 50 epochs, minutes |"
    yield "|---|---|---|---|---|"
    for name, t in r["timings"].items():
        yield (f"| {name} | {t['step_ms']:.3f}, {t['step_p90_ms']:.3f} | {t['weight_step_ms']:.3f}, "
               f"{t['arch_step_ms']:.3f} | {t['images_per_s']:.0f} | {t['step_ms'] * CIFAR_STEPS / 6e4:.1f} |")
    for name, t in r["torch"].items():
        yield (f"| PyTorch {t['torch']}, {name}, over ours (median, best) | {t['torch_ms']['median']:.3f} | "
               f"{t['ratio']['median']:.2f}, {t['ratio']['best']:.2f} times | | "
               f"{t['torch_ms']['median'] * CIFAR_STEPS / 6e4:.1f} |")


def latency_of(r):
    yield "## Latency of MobileNet-v2, 224 x 224, random weights pruned by magnitude"
    yield ""
    yield ("| batch | precision | density | by | median, ms | p10, p99 | over dense, best, median | dense, sparse, "
           "blocks |")
    yield "|---|---|---|---|---|---|---|---|"
    for t in r["latency"]:
        times = f"{t['dense_over_best']:.2f}, {t['dense_over_median']:.2f}" if "dense_over_best" in t else "-"
        parts = f"{t['dense_convolutions']}, {t['sparse_products']}, {t['blocks']}" if "blocks" in t else "all"
        yield (f"| {t['batch']} | {t['precision']} | {t['density']} | {t['execution']} | {t['median_ms']:.3f} | "
               f"{t['p10_ms']:.3f}, {t['p99_ms']:.3f} | {times} | {parts} |")


def placed(row, name):
    """Where the node stands in a step, if it was timed there; else alone."""
    return row.get("in_place_" + name, row[name])


def nodes_of(r):
    for name, t in r["timings"].items():
        if "top" not in t:
            continue
        p = t["peak"]
        yield f"## The launches that take longest: {name}"
        yield ""
        yield (f"Ceilings measured in the same run: {p['gflops']:.0f} GFLOP/s (a large product of the library), "
               f"{p['read_gbs']:.0f} GB/s read, {p['copy_gbs']:.0f} GB/s copied. All nodes where they stand: "
               f"{t.get('ops_in_place_ms', t['ops_ms']):.2f} ms, alone {t['ops_ms']:.2f} ms.")
        yield ""
        yield "| us in place | alone | nodes | GB/s | of roof | kernel and first node |"
        yield "|---|---|---|---|---|---|"
        for n in t["top"][:10]:
            yield (f"| {1e3 * placed(n, 'ms'):.1f} | {1e3 * n['ms']:.1f} | {n['nodes']} | {placed(n, 'gbs'):.0f} | "
                   f"{100 * placed(n, 'of_roof'):.0f} % | `{n['name']}` |")
        yield ""
        yield "| share | ms in place | alone | nodes | GB/s | operation |"
        yield "|---|---|---|---|---|---|"
        for n in t["ops"]:
            yield (f"| {100 * placed(n, 'share'):.1f} % | {placed(n, 'ms'):.3f} | {n['ms']:.3f} | {n['nodes']} | "
                   f"{placed(n, 'gbs'):.0f} | {n['name']} |")
        yield ""


def ncu_of(r):
    yield "## Ten kernels under Nsight Compute"
    for k in r["ncu"]:
        yield ""
        yield f"`{k['kernel'][:100]}`, grid {k['grid']}, block {k['block']}"
        yield ""
        yield ", ".join(f"{cell(name)} {value}" for name, value in k["metrics"].items()) + "."


def outputs_of(r):
    yield "## What did not go well"
    for s in r["steps"]:
        if s["state"] not in (OK, ABSENT) and s.get("output"):
            yield ""
            yield f"{s['name']}: {s['state']}. `{s['command']}`"
            yield ""
            for line in s["output"][-MD_LINES:]:
                yield "    " + line


def markdown(r):
    lines = list(head_of(r))
    for section, there in ((steps_of, r["timings"] or r["torch"]), (latency_of, r["latency"]), (nodes_of, r["timings"]),
                           (ncu_of, r["ncu"]), (outputs_of, any(s.get("output") for s in r["steps"]))):
        if not there:
            continue
        lines.append("")
        try:
            for line in section(r):
                lines.append(line)
        except (KeyError, TypeError, ValueError) as e:  # a result of another shape must not cost the rest
            lines.append(f"(The rest of this part is in the JSON file alone: {e!r}.)")
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"


def summary(steps):
    """Lines for the terminal, at the end."""
    return [f"{s.name}: {s.state}" + (f", {s.why}" if s.why else "") for s in steps if s.bad()
            or (s.state == NOT_RUN and not s.counts)]
