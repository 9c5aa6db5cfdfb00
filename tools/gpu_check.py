#!/usr/bin/env python3
"""What only a GPU can settle, in one run: build, numbers, races, repeatability, speed.

    tools/gpu_check.py [--deps FOLDER] [--out bench] [--minutes 8] [--commit NAME] [--parts latency,torch]
                                                                                      what `make gpu-check` does
    tools/gpu_check.py --double --out FOLDER                                          in small, on the tests' double

Needs the CUDA toolkit's nvcc, a C compiler, make and a driver. cuDNN, cuBLASLt and cuSPARSE may lie in the toolkit, in
the system's folders or in Python's packages (nvidia/*). --deps: the folder that `make gpu-deps` fills on a machine with
packages. Sanitizers and PyTorch are used where they are found. Leaves OUT/gpu-DEVICE-COMMIT.json with everything, .md
with what a person reads. Every step has a limit of its own, and none begins when the minutes are spent: it is then
listed as not run; --parts takes some of them, in a second run what a first had no time for. Exits 1 when a step
failed.
"""
import argparse
import filecmp
import glob
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join("build", "release")
STAGES = ("dense", "score", "finetune")
SEARCH = ["-c", "configs/search_cifar10.yaml"]
SMALL = ["--set", "net.channels=4", "--set", "net.layers=3", "--set", "net.nodes=1", "--set", "net.image=8", "--set",
         "train.batch=4"]
PARTS = ("numbers", "repeat", "times", "latency", "torch", "sanitizers")
CIFAR_STEPS = 390 * 50  # of the 50-epoch search: 25,000 training images, batch 64


def say(text):
    print("gpu-check: " + text, file=sys.stderr, flush=True)


def output_of(*argv):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
        return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


# ---- where CUDA lies -------------------------------------------------------------------------------------------------

LIBRARIES = {"cudart": "cuda_runtime_api.h", "cudnn": "cudnn.h", "cublasLt": "cublasLt.h", "cusparse": "cusparse.h"}


def cuda_home():
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda",
                  nvcc and os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))]
    for c in candidates:
        if c and os.path.exists(os.path.join(c, "bin", "nvcc")):
            return c
    return None


def wheel_folders():
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations) if spec is not None and spec.submodule_search_locations else []
    return sorted(d for r in roots for d in glob.glob(os.path.join(r, "*")) if os.path.isdir(d))


def cuda_folders(home):
    """CUDA_INC and CUDA_LIB for make. What has a version in its name only gets a link without it in build/cuda."""
    of_home = [os.path.join(home, d) for d in ("lib64", "lib", "targets/x86_64-linux/lib")]
    places = [(os.path.join(home, "include"), of_home)]
    places.append(("/usr/include", ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]))
    places += [(os.path.join(w, "include"), [os.path.join(w, "lib")]) for w in wheel_folders()]
    links = os.path.join(ROOT, "build", "cuda")
    shutil.rmtree(links, ignore_errors=True)
    for d in ("include", "lib"):
        os.makedirs(os.path.join(links, d))
    lib_dirs, missing = [os.path.join(links, "lib")], []
    for name, header in LIBRARIES.items():
        inc = next((i for i, _ in places if os.path.exists(os.path.join(i, header))), None)
        files = (f for _, ls in places for l in ls for f in sorted(glob.glob(os.path.join(l, f"lib{name}.so*"))))
        found = next(files, None)
        if inc is None or found is None:
            missing.append(f"{header if inc is None else 'lib' + name + '.so'}")
            continue
        os.symlink(os.path.realpath(found), os.path.join(links, "lib", f"lib{name}.so"))
        if os.path.dirname(found) not in lib_dirs:
            lib_dirs.append(os.path.dirname(found))
        if inc not in (places[0][0], "/usr/include"):  # only the headers asked for, and their companions
            for h in glob.glob(os.path.join(inc, "*")):
                to = os.path.join(links, "include", os.path.basename(h))
                if not os.path.exists(to):
                    os.symlink(h, to)
    if missing:
        sys.exit("gpu-check: not found in the toolkit, the system or Python's packages: " + ", ".join(missing))
    return f"{places[0][0]} {os.path.join(links, 'include')}", " ".join(lib_dirs)


# ---- steps -----------------------------------------------------------------------------------------------------------


class Check:
    def __init__(self, args):
        self.args = args
        self.steps = []
        self.end = time.time() + 60 * args.minutes
        self.work = tempfile.mkdtemp(prefix="gpu_check.")
        self.env = dict(os.environ, DASS_CUDNN_CACHE=os.path.join(self.work, "plans"))
        if args.double:
            self.env["DASS_CUDA_PLUGIN"] = os.path.join(ROOT, BUILD, "tests", "libdass_fakecuda.so")
            self.env["DASS_TEST_SHORT"] = "1"

    def step(self, name, argv, limit, read=None, stdin=None, env=None, may_fail=False):
        """Run a command. read(stdout) makes the step's result. Returns it, or None."""
        row = {"name": name, "command": " ".join(argv)}
        self.steps.append(row)
        left = self.end - time.time()
        if left < 5:
            row["state"] = "not run: the time is spent"
            return None
        began = time.time()
        try:
            done = subprocess.run(argv, cwd=ROOT, env={**self.env, **(env or {})}, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=min(limit, left), input=stdin)
            row["seconds"] = round(time.time() - began, 1)
            row["state"] = "ok" if done.returncode == 0 else f"failed with status {done.returncode}"
            out, err = done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            row["state"] = f"not finished in {min(limit, left):.0f} s"
            out = err = ""
        except OSError as e:
            row["state"] = f"not run: {e.strerror}"
            out = err = ""
        if row["state"] != "ok":
            row["output"] = (out[-3000:] + err[-3000:]).splitlines()[-60:]
        row["counts"] = not may_fail
        say(f"{name}: {row['state']}")
        if read is None or not out:
            return None
        try:
            row["result"] = read(out + ("\n" + err if read is test_lines else ""))
        except (ValueError, KeyError, TypeError) as e:
            row["state"] = f"its output was not understood: {e}"
            row["output"] = out.splitlines()[-20:]
            return None
        return row["result"]

    def same(self, name, a, b, files):
        """A step of its own: the files of two runs are the same bytes."""
        row = {"name": name, "command": f"cmp of {', '.join(files)}", "counts": True, "seconds": 0.0}
        differ = [f for f in files
                  if not (os.path.exists(os.path.join(a, f)) and os.path.exists(os.path.join(b, f))
                          and filecmp.cmp(os.path.join(a, f), os.path.join(b, f), shallow=False))]
        row["state"] = "ok" if not differ else "failed: " + ", ".join(differ) + " differ"
        self.steps.append(row)
        say(f"{name}: {row['state']}")

    def failed(self):
        return [s for s in self.steps if s["state"] != "ok" and s.get("counts", True)]


def test_lines(out):
    telling = re.compile(r"cases|largest error|\[  (PASSED|FAILED)|ERROR SUMMARY|RACECHECK")
    return [line.strip() for line in out.splitlines() if telling.search(line)]


def dass(*words):
    return [os.path.join("build", "dass"), *words]


def program(name):
    return os.path.join(BUILD, "tests", name)


def build(check, home):
    targets = [program(t) for t in ("test_ops", "test_device", "test_bench", "cudnn_plans/list_convs")]
    words = ["make", f"-j{os.cpu_count()}", "CUDA=1", f"GENCODE={check.args.gencode}"]
    if check.args.double:
        words += ["WERROR=1"] if os.environ.get("WERROR") == "1" else []
        targets += [program("libdass_fakecuda.so"), program("fakecuda/live_plans")]
    else:
        inc, lib = cuda_folders(home)
        words += ["DOUBLE=0", "MPI=0", f"CUDA_HOME={home}", f"CUDA_INC={inc}", f"CUDA_LIB={lib}"]
        targets += [program("cudnn_plans/live_plans")]
    if check.args.deps:
        words += [f"DEPS={check.args.deps}"]
    check.step("build", words + ["all"] + targets, 300)


def numbers(check):
    """Agreement with the reference, the card's plans, capture and repeatability."""
    only = {"DASS_TEST_BACKEND": "cuda"}
    if not check.args.double:  # there they are tests of `make test`
        check.step("operations agree with the reference", [program("test_ops")], 120, test_lines, env=only)
        check.step("whole steps agree; merged, recorded and twice are the same bytes", [program("test_device")], 240,
                   test_lines)
    lines = output_of(os.path.join(ROOT, program("cudnn_plans/list_convs")),
                      *sorted(glob.glob(os.path.join(ROOT, "configs", "*.yaml")))).splitlines()
    tool, more = program("cudnn_plans/live_plans"), []
    if check.args.double:
        lines = [re.sub(" n=[0-9]+", " n=2", l) for l in lines[::120]]
        tool, more = program("fakecuda/live_plans"), ["--card", "tests/cudnn_plans/h100.json"]
    else:
        lines = lines[::24]
    check.step("plans for this card and for a described H100", [tool, "tests/cudnn_plans/h100.json", *more], 90,
               json.loads, "\n".join(lines) + "\n")


def sanitizers(check):
    tool = shutil.which("compute-sanitizer") or os.path.join(cuda_home() or "", "bin", "compute-sanitizer")
    only = {"DASS_TEST_BACKEND": "cuda", "DASS_TEST_SHORT": "1"}
    for kind in ("memcheck", "racecheck"):
        argv = [tool, "--tool", kind, "--error-exitcode", "9", program("test_ops")]
        check.step(f"compute-sanitizer {kind}", argv, 150, test_lines, env=only)


def repeat_search(check):
    size = ["--set", "data.limit=1024", "--set", "data.test_limit=64", "--set", "search.epochs.pretrain=1"]
    if check.args.double:
        size = ["--set", "data.limit=16", "--set", "data.test_limit=8", "--set", "search.epochs.pretrain=1", *SMALL]
    folders = [os.path.join(check.work, f"search{i}") for i in (1, 2)]
    for i, folder in enumerate(folders):
        words = ["-c", "configs/demo.yaml", "--set", "data.name=random", *size]
        check.step(f"a search, run {i + 1}",
                   dass("search", *words, "--device", "cuda", "--quiet", "-o", folder), 90)
    first = ["a run folder"]
    if os.path.isdir(folders[0]):
        first = sorted(f for f in os.listdir(folders[0])
                       if f.endswith((".safetensors", ".jsonl")) or f == "genotype.json")
    check.same("the same search twice gives the same bytes", *folders, [f for f in first if not f.startswith("times")])


def timings(check):
    out = {}
    size = SMALL if check.args.double else []
    precisions = ("fp32", "bf16") if check.args.double else ("fp32", "tf32", "bf16")
    for precision in precisions:
        for stage in STAGES[:1] if check.args.double else STAGES:
            ops = ["--ops"] if stage == "dense" and not check.args.double else []
            r = check.step(f"search step, {stage}, {precision}",
                           dass("bench", "step", *SEARCH, *size, "--device", "cuda", "--stage", stage, "--set",
                                f"run.precision={precision}", "--json", *ops), 60, json.loads)
            out[f"{stage} {precision}"] = r
    return out


def json_lines(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def latencies(check):
    """MobileNet-v2 at 224 x 224: dense, cuSPARSE, our products, our blocks, interleaved in one process."""
    rows = []
    if check.args.double:  # hundreds of answers: minutes on the double, whose network test_infer has run
        return rows
    everything = "dense,library,sparse,block"
    kinds = (("fp32", everything, (0.1, 0.05, 0.02, 0.01)), ("tf32", "dense", (0.1,)),
             ("bf16", everything, (0.1, 0.02)))
    for batch in (1, 32):
        for precision, execution, densities in kinds:
            for density in densities:
                r = check.step(f"latency of MobileNet-v2, batch {batch}, {precision}, density {density}",
                               dass("bench", "latency", "--net", "mobilenet_v2", "--set", "net.form=imagenet", "--set",
                                    "net.image=224", "--set", "net.classes=1000", "--set", f"bench.batch={batch}",
                                    "--set", f"prune.density={density}", "--set", f"run.precision={precision}",
                                    "--execution", execution, "--device", "cuda", "--json"),
                               120 if precision == "bf16" else 60, json_lines)  # engines compiled for each shape
                rows += [dict(row, density=density) for row in r or []]
    return rows


def torch_times(check):
    if check.args.double or importlib.util.find_spec("torch") is None:
        say("PyTorch: not compared")
        return {}
    base = [sys.executable, "tools/torch_step.py", "--device", "cuda", "--rounds", "3", "--json"]
    out = {}
    for name, more, limit in (("eager fp32", [], 90), ("eager tf32", ["--tf32"], 90), ("eager bf16", ["--bf16"], 90),
                              ("compiled tf32", ["--tf32", "--compile"], 200)):
        out[name] = check.step(f"PyTorch, {name}", base + more, limit, json.loads, may_fail=True)
    return out


# ---- what a person reads ---------------------------------------------------------------------------------------------


def markdown(report):
    m = report["machine"]
    lines = [f"# {m['device']}, dass {report['commit']}", "",
             f"{report['date']}. Driver {m['driver'] or '-'}, {m['nvcc'] or 'no nvcc'}, {m['cpus']} processors.",
             f"Reproduce: `make gpu-check`, or `{' '.join(sys.argv)}`. "
             f"{len(report['failed'])} of {len(report['steps'])} steps failed.", ""]
    lines += ["| step | state | seconds |", "|---|---|---|"]
    lines += [f"| {s['name']} | {s['state']} | {s.get('seconds', '')} |" for s in report["steps"]]
    lines += ["", "## Search step of the CIFAR-10 supernet (C=16, 8 cells, batch 64)", "",
              "| stage, precision | whole, ms (median, p90) | weights, alphas alone | images/s | 50 epochs, minutes |",
              "|---|---|---|---|---|"]
    for name, r in report["timings"].items():
        if r:
            lines.append(f"| {name} | {r['step_ms']:.3f}, {r['step_p90_ms']:.3f} | {r['weight_step_ms']:.3f}, "
                         f"{r['arch_step_ms']:.3f} | {r['images_per_s']:.0f} | "
                         f"{r['step_ms'] * CIFAR_STEPS / 6e4:.1f} |")
    for name, r in report["torch"].items():
        if r:
            lines.append(f"| PyTorch {r['torch']}, {name}, over ours (median, best) | {r['torch_ms']['median']:.3f} | "
                         f"{r['ratio']['median']:.2f}, {r['ratio']['best']:.2f} times | | "
                         f"{r['torch_ms']['median'] * CIFAR_STEPS / 6e4:.1f} |")
    if report["latency"]:
        lines += ["", "## Latency of MobileNet-v2, 224 x 224, random weights pruned by magnitude", "",
                  "| batch | precision | density | by | median, ms | p10, p99 | over dense, best, median | dense, "
                  "sparse, blocks |", "|---|---|---|---|---|---|---|---|"]
        for r in report["latency"]:
            times = f"{r['dense_over_best']:.2f}, {r['dense_over_median']:.2f}" if "dense_over_best" in r else "-"
            parts = f"{r['dense_convolutions']}, {r['sparse_products']}, {r['blocks']}" if "blocks" in r else "all"
            lines.append(f"| {r['batch']} | {r['precision']} | {r['density']} | {r['execution']} | "
                         f"{r['median_ms']:.3f} | {r['p10_ms']:.3f}, {r['p99_ms']:.3f} | {times} | {parts} |")
    for name, r in report["timings"].items():
        if r and "top" in r:
            p = r["peak"]
            lines += ["", f"## The launches that take longest: {name}", "",
                      f"Ceilings measured in the same run: {p['gflops']:.0f} GFLOP/s (a large product of the library), "
                      f"{p['read_gbs']:.0f} GB/s read, {p['copy_gbs']:.0f} GB/s copied. All nodes alone: "
                      f"{r['ops_ms']:.2f} ms.", "", "| us | nodes | GB/s | of roof | kernel and first node |",
                      "|---|---|---|---|---|"]
            lines += [f"| {1e3 * t['ms']:.1f} | {t['nodes']} | {t['gbs']:.0f} | {100 * t['of_roof']:.0f} % | "
                      f"`{t['name']}` |" for t in r["top"][:10]]
            lines += ["", "| share | ms | nodes | GB/s | operation |", "|---|---|---|---|---|"]
            lines += [f"| {100 * t['share']:.1f} % | {t['ms']:.3f} | {t['nodes']} | {t['gbs']:.0f} | {t['name']} |"
                      for t in r["ops"]]
    return "\n".join(lines) + "\n"


def machine_of(args):
    smi = output_of("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader")
    first = [w.strip() for w in smi.splitlines()[0].split(",")] if smi else ["", "", "", ""]
    home = cuda_home()
    nvcc = output_of(os.path.join(home, "bin", "nvcc"), "--version") if home else ""
    return {"device": "double of an H100" if args.double else first[0], "driver": first[1], "compute_cap": first[2],
            "memory": first[3], "cpus": os.cpu_count(), "nvcc": (re.search(r"V[0-9.]+", nvcc) or [""])[0]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--deps")
    p.add_argument("--out", default="bench")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--commit", help="name of the sources, where git cannot tell")
    p.add_argument("--double", action="store_true")
    p.add_argument("--parts", default=",".join(PARTS))
    args = p.parse_args()
    parts = args.parts.split(",")
    if not set(parts) <= set(PARTS):
        sys.exit(f"gpu-check: --parts {args.parts}: there are {', '.join(PARTS)}")
    os.chdir(ROOT)
    machine = machine_of(args)
    if not args.double and not machine["device"]:
        sys.exit("gpu-check: nvidia-smi shows no GPU here; `make test` checks what can be checked without one")
    home = cuda_home()
    if home is None:
        sys.exit("gpu-check: no nvcc in CUDA_HOME, /usr/local/cuda, /opt/cuda or on the path")
    args.gencode = os.environ.get("GENCODE") or machine["compute_cap"].replace(".", "") or "90"
    check = Check(args)
    report = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine,
              "commit": args.commit or output_of("git", "describe", "--always", "--dirty") or "unknown", "timings": {},
              "latency": [], "torch": {}}
    try:
        if os.environ.get("BUILT") != "1":  # else make is what runs this
            build(check, home)
        if check.failed():
            say("\n".join(check.steps[-1].get("output", [])))
        else:
            if "numbers" in parts:
                numbers(check)
            if "repeat" in parts:
                repeat_search(check)
            if "times" in parts:
                report["timings"] = timings(check)
            if "latency" in parts:
                report["latency"] = latencies(check)
            if "torch" in parts:
                report["torch"] = torch_times(check)
            if "sanitizers" in parts and not args.double:
                sanitizers(check)
    finally:
        shutil.rmtree(check.work, ignore_errors=True)
    report.update(steps=check.steps, failed=[s["name"] for s in check.failed()])
    os.makedirs(args.out, exist_ok=True)
    name = re.sub("[^A-Za-z0-9]+", "-", machine["device"]).strip("-").lower()
    some = "" if set(parts) == set(PARTS) else "-" + "-".join(parts)
    path = os.path.join(args.out, f"gpu-{name}-{report['commit']}{some}")
    with open(path + ".json", "w") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    with open(path + ".md", "w") as f:
        f.write(markdown(report))
    print(f"{path}.md\n{path}.json")
    for s in check.failed():
        say(f"{s['name']}: {s['state']}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
