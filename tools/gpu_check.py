#!/usr/bin/env python3
"""What only a GPU can settle, in one run: build, smoke, speed, numbers, races, repeatability.

    tools/gpu_check.py [--deps FOLDER] [--out bench] [--minutes 8] [--commit NAME] [--parts latency,torch]
                                                                                      what `make gpu-check` does
    tools/gpu_check.py --double --out FOLDER              in small, on the tests' double, once `make tests` has built it

Needs the CUDA toolkit's nvcc, a C compiler, make and a driver. cuDNN, cuBLASLt and cuSPARSE may lie in the toolkit, in
the system's folders or in Python's packages (nvidia/*). --deps: the folder that `make gpu-deps` fills on a machine with
packages; the programs that it carries run where the build fails. Sanitizers, ncu and PyTorch are used where they are.

Leaves OUT/gpu-DEVICE-COMMIT.json with everything, .md with what a person reads, .log with what was printed, whole after
every step. A step has a limit of its own; past it all its processes are ended and the next begins; none begins when the
minutes are spent. A device's test that is skipped has failed. --parts takes some of the steps, in a second run what a
first had no time for. Exits 1 when a step failed, ran out of time or was not run, 128 + number when a signal ended it.
"""
import argparse
import csv
import filecmp
import functools
import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from gpu_report import Report, summary
from gpu_run import FAILED, NOT_RUN, OK, Runner, Step, Stopped, json_lines, stop_at_signals, words_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = ("smoke", "dense", "ways", "ncu", "torch", "latency", "stages", "tests", "repeat", "sanitizers")
DOUBLE_PARTS = ("smoke", "dense", "tests", "repeat")
SEARCH = ["-c", "configs/search_cifar10.yaml"]
SMALL = ["--set", "net.channels=4", "--set", "net.layers=3", "--set", "net.nodes=1", "--set", "net.image=8", "--set",
         "train.batch=4"]
ONE_CONV = ("forward n=64 ic=48 ih=32 iw=32 oc=64 kh=3 kw=3 stride=1 pad=1 dil=1 groups=1 bias=0 act=none "
            "precision=fp32\n")


def say(text):
    print("gpu-check: " + text, file=sys.stderr, flush=True)


def output_of(*argv):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              universal_newlines=True, timeout=60)
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


def cuda_folders(home, build):
    """CUDA_INC and CUDA_LIB for make as lists, and what was not found. What has a version in its name only gets a link
    without it in BUILD/cuda."""
    places = []
    if home:
        of_home = [os.path.join(home, d) for d in ("lib64", "lib", "targets/x86_64-linux/lib")]
        places.append((os.path.join(home, "include"), of_home))
    places.append(("/usr/include", ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]))
    places += [(os.path.join(w, "include"), [os.path.join(w, "lib")]) for w in wheel_folders()]
    links = os.path.abspath(os.path.join(build, "cuda"))
    shutil.rmtree(links, ignore_errors=True)
    for d in ("include", "lib"):
        os.makedirs(os.path.join(links, d))
    lib_dirs, missing = [os.path.join(links, "lib")], []
    for name, header in LIBRARIES.items():
        inc = next((i for i, _ in places if os.path.exists(os.path.join(i, header))), None)
        files = (f for _, ls in places for l in ls for f in sorted(glob.glob(os.path.join(l, f"lib{name}.so*"))))
        found = next(files, None)
        if found is not None:
            os.symlink(os.path.realpath(found), os.path.join(links, "lib", f"lib{name}.so"))
            if os.path.dirname(found) not in lib_dirs:
                lib_dirs.append(os.path.dirname(found))
        if inc is None or found is None:
            missing.append(header if inc is None else f"lib{name}.so")
        elif inc not in (places[0][0], "/usr/include"):  # only the headers asked for, and their companions
            for h in glob.glob(os.path.join(inc, "*")):
                to = os.path.join(links, "include", os.path.basename(h))
                if not os.path.exists(to):
                    os.symlink(h, to)
    return [places[0][0], os.path.join(links, "include")], lib_dirs, missing


# ---- the programs: built here, or carried along ----------------------------------------------------------------------


def kit_of(folder, tests, plugin, fake=False):
    """What {words} in the commands of steps stand for."""
    live = os.path.join(tests, "fakecuda" if fake else "cudnn_plans", "live_plans")
    return {"dass": os.path.join(folder, "dass"), "tests": tests, "plugin": os.path.abspath(plugin),
            "live_plans": live}


class Programs:
    def __init__(self, args, runner, report):
        self.args, self.runner, self.report = args, runner, report
        release = os.path.join(args.build, "release")
        self.built = kit_of(args.build, os.path.join(release, "tests"), os.path.join(release, "libdass_cuda.so"))
        self.carried = None
        if args.deps:
            folder = os.path.join(os.path.abspath(args.deps), "carried")
            self.carried = kit_of(folder, os.path.join(folder, "tests"), os.path.join(folder, "libdass_cuda.so"))

    def make_words(self, inc, lib):
        words = ["make", "-k", f"-j{os.cpu_count()}", f"O={self.args.build}", "CUDA=1", "DOUBLE=0", "MPI=0",
                 f"GENCODE={self.args.gencode}", f"CUDA_HOME={self.args.home}", f"CUDA_INC={' '.join(inc)}",
                 f"CUDA_LIB={' '.join(lib)}"]
        words += [f"DEPS={self.args.deps}"] if self.args.deps else []
        return words + ["all", "gpu-programs"]

    def programs(self, steps):
        """Of the tests; `make gpu-programs` makes them."""
        return {w for s in steps for w in words_of(s.argv or (), self.built) if w.startswith(self.built["tests"])}

    def build(self, steps):
        """Build, as the project does and then with warnings allowed. What could be made is then there, and nothing
        else: products of an earlier build go first."""
        inc, lib, missing = cuda_folders(self.args.home, self.args.build)
        self.libraries = lib
        if not self.args.home:
            steps[0].why = "no nvcc in CUDA_HOME, /usr/local/cuda, /opt/cuda or on the path"
            return
        if missing:
            steps[0].state = FAILED
            steps[0].why = "not found in the toolkit, the system or Python's packages: " + ", ".join(missing)
            return
        for f in {self.built["dass"], self.built["plugin"], *self.programs(steps)}:
            if os.path.lexists(f):
                os.unlink(f)
        steps[0].argv = self.make_words(inc, lib)
        self.runner.run(steps[0])
        if steps[0].state != FAILED:
            return
        again = Step("build", "build with the device compiler's warnings allowed", steps[0].argv + ["NVWERROR=0"], 240)
        steps.insert(1, again)
        self.runner.run(again)
        if again.state == OK:
            self.report.head["notes"].append("The device code was built with warnings allowed: the first build says "
                                             "which there are.")

    def choose(self):
        """The kit that runs, or None: what was built here, if program and plugin are there, else what was carried."""
        for kit, text in ((self.built, "built here"), (self.carried, "carried along, not built here")):
            if kit and all(os.path.exists(kit[f]) for f in ("dass", "plugin")):
                break
        else:
            return None
        self.report.head["programs"] = text
        if kit is self.carried:
            self.unpack()
        return kit

    def unpack(self):
        """Bits of execution and links may have got lost on the way; the libraries are where they are here."""
        folder = os.path.dirname(self.carried["dass"])
        for f in glob.glob(os.path.join(folder, "**", "*"), recursive=True):
            if os.path.isfile(f) and not os.access(f, os.X_OK):
                os.chmod(f, 0o755)
        paths = [os.path.join(os.path.abspath(self.args.deps), "lib"), *self.libraries]
        self.runner.env["LD_LIBRARY_PATH"] = ":".join(filter(None, [*paths, os.environ.get("LD_LIBRARY_PATH")]))
        try:
            with open(os.path.join(folder, "commit")) as f:
                commit = f.read().strip()
        except OSError:
            commit = "unknown"
        self.report.head["notes"].append(f"The programs were carried along; they are of commit {commit}.")


# ---- what is missing on this machine ---------------------------------------------------------------------------------


def tool(name):
    of_home = os.path.join(cuda_home() or "", "bin", name)
    return shutil.which(name) or (of_home if os.path.exists(of_home) else None)


def needs_tool(name):
    return None if tool(name) else f"{name} is not on the path"


def needs_torch():
    return None if importlib.util.find_spec("torch") else "this Python has no torch"


# ---- the steps -------------------------------------------------------------------------------------------------------


def smoke(args, folder):
    for name, test in (("a device is found", "a_device_is_found"), ("one kernel", "one_kernel"),
                       ("one product", "one_product"), ("capture and replay", "capture_and_replay"),
                       ("a copy of 64 megabytes", "a_copy_of_64_megabytes")):
        yield Step("smoke", f"smoke: {name}", ["{tests}/test_smoke", test], 60, tests=True)
    conv = re.sub("n=64 ic=48 ih=32 iw=32", "n=1 ic=16 ih=8 iw=8", ONE_CONV) if args.double else ONE_CONV
    yield Step("smoke", "smoke: one convolution's plans, of the card, described, and read back",
               plans_command(args), 90, json.loads, stdin=conv)


def plans_command(args):
    more = ["--card", "tests/cudnn_plans/h100.json"] if args.double else []
    return ["{live_plans}", "tests/cudnn_plans/h100.json", *more]


def step_time(args, part, stage, precision, more=(), name="", limit=60):
    size = SMALL if args.double else []
    return Step(part, f"search step, {stage}, {precision}{name}",
                ["{dass}", "bench", "step", *SEARCH, *size, "--device", "cuda", "--stage", stage, "--set",
                 f"run.precision={precision}", "--seconds", "3", "--json", *more], limit, read_step,
                key=f"{stage} {precision}{name}")


def read_step(text):
    row = json.loads(text)
    return row if row["step_ms"] > 0 else None


def dense(args, folder):
    for precision in ("fp32", "bf16") if args.double else ("fp32", "tf32", "bf16"):
        yield step_time(args, "dense", "dense", precision, [] if args.double else ["--ops"], limit=120)


def ways(args, folder):
    for words, name in ((["--no-record"], ", not recorded"), (["--no-merge"], ", not merged"),
                        (["--no-record", "--no-merge"], ", neither recorded nor merged")):
        yield step_time(args, "ways", "dense", "fp32", words, name)


def stages(args, folder):
    for precision in ("fp32", "tf32", "bf16"):
        for stage in ("score", "finetune"):
            yield step_time(args, "stages", stage, precision)


def read_ncu(text):
    """Rows of `ncu --csv --page details`, one for each kernel."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('"ID"'))
    kernels = {}
    for row in csv.DictReader(lines[first:]):
        k = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"], "grid": row["Grid Size"],
                                           "block": row["Block Size"], "metrics": {}})
        if row["Metric Name"]:
            k["metrics"][row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return list(kernels.values())


def ncu(args, folder):
    """Ten launches in a row of the first step, which is not recorded: forward, from some way into it."""
    yield Step("ncu", "Nsight Compute on ten kernels",
               ["ncu", "--csv", "--page", "details", "--clock-control", "none", "--launch-skip", "200",
                "--launch-count", "10", "--kill", "yes", "--kernel-name", "regex:dwpw|depthwise|sum|norm|bn|pool",
                "{dass}", "bench", "step", *SEARCH, "--device", "cuda", "--json"],
               120, read_ncu, counts=False, needs=functools.partial(needs_tool, "ncu"))


def torch_times(args, folder):
    base = [sys.executable, "tools/torch_step.py", "--device", "cuda", "--rounds", "3", "--json", "--dass", "{dass}"]
    for name, more, limit in (("eager fp32", [], 90), ("eager tf32", ["--tf32"], 90), ("eager bf16", ["--bf16"], 90),
                              ("eager in a graph, tf32", ["--tf32", "--cuda-graph"], 90),
                              ("eager in a graph, bf16", ["--bf16", "--cuda-graph"], 90),
                              ("compiled tf32", ["--tf32", "--compile"], 200)):
        yield Step("torch", f"PyTorch, {name}", base + more, limit, json.loads, counts=False, needs=needs_torch,
                   key=name)


def latency(args, folder):
    """MobileNet-v2 at 224 x 224: dense, cuSPARSE, our products, our blocks, interleaved in one process."""
    everything = "dense,library,sparse,block"
    kinds = (("fp32", everything, (0.1, 0.05, 0.02, 0.01)), ("tf32", "dense", (0.1,)),
             ("bf16", everything, (0.1, 0.02)))
    for batch in (1, 32):
        for precision, execution, densities in kinds:
            for density in densities:
                yield Step("latency", f"latency of MobileNet-v2, batch {batch}, {precision}, density {density}",
                           ["{dass}", "bench", "latency", "--net", "mobilenet_v2", "--set", "net.form=imagenet",
                            "--set", "net.image=224", "--set", "net.classes=1000", "--set", f"bench.batch={batch}",
                            "--set", f"prune.density={density}", "--set", f"run.precision={precision}",
                            "--execution", execution, "--device", "cuda", "--json"],
                           120 if precision == "bf16" else 60,  # engines compiled for each shape
                           json_lines, key=str(density))


def convolutions(args, kit):
    """Some of the convolutions of the shipped networks, one a line."""
    lines = output_of(os.path.join(kit["tests"], "cudnn_plans", "list_convs"),
                      *sorted(glob.glob(os.path.join(ROOT, "configs", "*.yaml")))).splitlines()
    if args.double:
        lines = [re.sub(" n=[0-9]+", " n=2", line) for line in lines[::120]]
    else:
        lines = lines[::24]
    return "\n".join(lines) + "\n"


def device_tests(args, folder):
    """Agreement with the reference, the card's plans, capture and repeatability: short tier first."""
    only, short = {"DASS_TEST_BACKEND": "cuda"}, {"DASS_TEST_SHORT": "1"}
    if not args.double:  # there they are tests of `make test`
        yield Step("tests", "short: whole steps agree; merged, recorded and twice are the same bytes",
                   ["{tests}/test_device"], 120, tests=True, env=short)
        yield Step("tests", "operations agree with the reference", ["{tests}/test_ops"], 120, tests=True, env=only)
        yield Step("tests", "pruned networks for latency agree", ["{tests}/test_infer"], 90, tests=True)
    yield Step("tests", "plans for this card and for a described H100", plans_command(args), 90, json.loads,
               stdin=lambda kit: convolutions(args, kit))
    if not args.double:
        yield Step("tests", "whole steps agree; merged, recorded and twice are the same bytes",
                   ["{tests}/test_device"], 240, tests=True)
        yield Step("tests", "what bench step measures adds up", ["{tests}/test_bench"], 120, tests=True)


def repeat_search(args, folder):
    size = ["--set", "data.limit=1024", "--set", "data.test_limit=64", "--set", "search.epochs.pretrain=1"]
    if args.double:
        size = ["--set", "data.limit=16", "--set", "data.test_limit=8", "--set", "search.epochs.pretrain=1", *SMALL]
    folders = [os.path.join(folder, f"search{i}") for i in (1, 2)]
    for i, to in enumerate(folders):
        words = ["-c", "configs/demo.yaml", "--set", "data.name=random", *size]
        yield Step("repeat", f"a search, run {i + 1}",
                   ["{dass}", "search", *words, "--device", "cuda", "--quiet", "-o", to], 90)
    yield Step("repeat", "the same search twice gives the same bytes", call=lambda: same_runs(*folders))


def same_runs(a, b):
    names = sorted(f for f in (os.listdir(a) if os.path.isdir(a) else ())
                   if f.endswith((".safetensors", ".jsonl")) or f == "genotype.json")
    names = [f for f in names if not f.startswith("times")]
    if not names:
        return FAILED, "the first run left nothing to compare"
    differ = [f for f in names if not (os.path.exists(os.path.join(b, f)) and
                                       filecmp.cmp(os.path.join(a, f), os.path.join(b, f), shallow=False))]
    return (FAILED, ", ".join(differ) + " differ") if differ else (OK, "")


def sanitizers(args, folder):
    only = {"DASS_TEST_BACKEND": "cuda", "DASS_TEST_SHORT": "1"}
    for kind in ("memcheck", "racecheck"):
        yield Step("sanitizers", f"compute-sanitizer {kind}",
                   [tool("compute-sanitizer") or "compute-sanitizer", "--tool", kind, "--error-exitcode", "9",
                    "{tests}/test_ops"], 240, tests=True, env=only,
                   needs=functools.partial(needs_tool, "compute-sanitizer"))


STEPS = {"smoke": smoke, "dense": dense, "ways": ways, "ncu": ncu, "torch": torch_times, "latency": latency,
         "stages": stages, "tests": device_tests, "repeat": repeat_search, "sanitizers": sanitizers}


# ---- all of it -------------------------------------------------------------------------------------------------------


def machine_of(args):
    smi = output_of("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader")
    first = [w.strip() for w in smi.splitlines()[0].split(",")] if smi else []
    if len(first) != 4:
        first = ["unknown card" if glob.glob("/dev/nvidia[0-9]*") else "", "", "", ""]
    home = cuda_home()
    nvcc = output_of(os.path.join(home, "bin", "nvcc"), "--version") if home else ""
    return {"device": "double of an H100" if args.double else first[0], "driver": first[1], "compute_cap": first[2],
            "memory": first[3], "cpus": os.cpu_count(), "nvcc": (re.search(r"V[0-9.]+", nvcc) or [""])[0]}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--deps")
    p.add_argument("--out", default="bench")
    p.add_argument("--build", default="build", help="folder of what is built, from the repository's root")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--limit", metavar="PART=SECONDS", help="for the steps of a part, where their own is larger")
    p.add_argument("--commit", help="name of the sources, where git cannot tell")
    p.add_argument("--double", action="store_true")
    p.add_argument("--parts", default=",".join(PARTS))
    args = p.parse_args()
    if not set(args.parts.split(",")) <= set(PARTS):
        sys.exit(f"gpu-check: --parts {args.parts}: there are {', '.join(PARTS)}")
    if args.limit and not re.fullmatch(f"({'|'.join(PARTS)})=[0-9.]+", args.limit):
        sys.exit(f"gpu-check: --limit {args.limit}: not PART=SECONDS, of {', '.join(PARTS)}")
    args.parts = [n for n in PARTS if n in args.parts.split(",") and (not args.double or n in DOUBLE_PARTS)]
    args.out = os.path.abspath(args.out)
    args.home = cuda_home()
    return args


def set_limits(args, steps):
    part, _, most = (args.limit or "").partition("=")
    for step in steps:
        if args.double:
            step.limit *= 4  # its time says nothing, and others may be busy on its processor
        if step.part == part:
            step.limit = min(step.limit, float(most))


def run_all(args, runner, report, programs):
    """Every step, in order. Ends early when there is nothing to run."""
    if not args.double:
        programs.build(report.steps)
        runner.kit = programs.choose()
        if runner.kit is None:
            for s in report.steps:
                s.why = s.why or "no program, or no plugin, was built or carried along"
            return
    runner.env["DASS_CUDA_PLUGIN"] = runner.kit["plugin"]
    for step in report.steps:
        if step.part == "build":
            continue
        runner.run(step)
        say(f"{step.name}: {step.state}" + (f", {step.why}" if step.why else ""))


def main():
    args = arguments()
    os.chdir(ROOT)
    machine = machine_of(args)
    if not machine["device"]:
        sys.exit("gpu-check: nvidia-smi shows no GPU here; `make test` checks what can be checked without one")
    args.gencode = os.environ.get("GENCODE") or machine["compute_cap"].replace(".", "") or "90"
    commit = args.commit or output_of("git", "describe", "--always", "--dirty") or "unknown"
    some = "" if args.double or len(args.parts) == len(PARTS) else "-" + "-".join(args.parts)
    report = Report(args.out, machine, commit, some)
    folder = tempfile.mkdtemp(prefix="gpu_check.")
    runner = Runner(ROOT, args.minutes, report.write, report.log)
    runner.env.update(CMOCKA_MESSAGE_OUTPUT="TAP", DASS_TEST_ROOT=ROOT, PYTHONUNBUFFERED="1",
                      DASS_CUDNN_CACHE=os.path.join(folder, "plans"))
    if args.double:
        tests = os.path.join(args.build, "release", "tests")
        runner.kit = kit_of(args.build, tests, os.path.join(tests, "libdass_fakecuda.so"), fake=True)
        runner.env["DASS_TEST_SHORT"] = "1"
        report.head["programs"] = "the tests' double"
    else:
        report.steps.append(Step("build", "build", limit=300))
    for name in args.parts:
        report.steps += STEPS[name](args, folder)
    set_limits(args, report.steps)
    status = 0
    stop_at_signals()
    try:
        run_all(args, runner, report, Programs(args, runner, report))
        report.head["state"] = "finished"
    except Stopped as e:
        report.head["state"] = f"stopped by {e}"
        for step in report.steps:
            if step.state == NOT_RUN and not step.why:
                step.why = f"stopped by {e}"
        status = 128 + signal.Signals[str(e)]
    finally:
        report.write()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{report.path}.md\n{report.path}.json\n{report.path}.log")
    for line in summary(report.steps):
        say(line)
    return status or (1 if any(s.bad() for s in report.steps) else 0)


if __name__ == "__main__":
    sys.exit(main())
