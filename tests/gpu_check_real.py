#!/usr/bin/env python3
"""`make gpu-check` as it runs on a machine with a card, against doubles of what is around it. Prints TAP.

nvidia-smi, nvcc, make, ncu and compute-sanitizer are scripts here; the plugin is tests/stub's, whose card is the
processor. Real are gpu_check.py, what it starts and ends, the smoke tests and one search step on that plugin. Of the
rest one step is made to fail, one to run out of time with a grandchild that holds its output, and one device's test
skips itself for want of a card.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import gpu_run  # noqa: E402
DASS = os.path.realpath(os.environ.get("DASS", os.path.join(ROOT, "build", "dass")))
REAL = os.path.join(os.path.dirname(DASS), "tests")

SCRIPTS = {
    "bin/nvidia-smi": "echo 'Stub H100, 580.1, 9.0, 81559 MiB'",
    "cuda/bin/nvcc": "echo 'Cuda compilation tools, release 13.0, V13.0.1'",
    # The first build finds a spill; with warnings allowed the plugin can be made.
    "bin/make": """
        echo "$*" >>"$FAKE/make.log"
        [ -z "${MAKE_FAILS:-}" ] || { echo 'make: no compiler'; exit 2; }
        for w in "$@"; do case $w in O=*) O=${w#O=} ;; NVWERROR=0) allowed=1 ;; esac; done
        mkdir -p "$O/release/tests"
        cp "$FAKE/programs/dass" "$O/dass"
        cp -r "$FAKE/programs/tests" "$O/release"
        [ -n "${allowed:-}" ] || { echo 'sum.cu: error: Registers are spilled' >&2; exit 2; }
        cp "$FAKE/programs/libdass_cuda.so" "$O/release" """,
    "bin/ncu": r"""
        echo '==PROF== Connected'
        printf '"ID","Kernel Name","Block Size","Grid Size","Section Name","Metric Name","Metric Unit","Metric Value"\n'
        printf '"%s","dwpw","(128,1,1)","(264,1,1)","Occupancy","Achieved Occupancy","%%","24.9"\n' 0 1""",
    "bin/compute-sanitizer": "echo 1..1; echo \"ok 1 - under $2\"; echo '========= ERROR SUMMARY: 0 errors'",
    "programs/dass": """
        case "$*" in
        *'stage dense'*precision=fp32*--ops)
            exec "$DASS" bench step --set net.channels=4 --set net.layers=2 --set net.nodes=1 --set net.image=8 \\
                --set train.batch=2 --set run.threads=1 --device cuda --json ;;
        *--ops) cat "$FAKE/ops.json" ;;
        bench' 'step*) echo '{"step_ms":2,"step_p90_ms":3,"weight_step_ms":1,"arch_step_ms":1,"images_per_s":9}' ;;
        bench' 'latency*)
            echo '{"batch":1,"precision":"fp32","execution":"dense","median_ms":1,"p10_ms":1,"p99_ms":1}' ;;
        search*) mkdir -p "${!#}"; echo the same >"${!#}/genotype.json" ;;
        esac""",
    "programs/tests/test_smoke": 'exec "$REAL/test_smoke" "$@"',
    "programs/tests/test_device": 'DASS_CUDA_PLUGIN=/none exec "$REAL/test_device"',
    "programs/tests/test_ops": """
        [ -z "${STUBBORN:-}" ] || trap '' TERM
        echo 1..2
        echo 'ok 1 - the first'
        sleep 600 &
        echo $! >"$FAKE/grandchild.new"
        mv "$FAKE/grandchild.new" "$FAKE/grandchild"
        wait
        sleep 600""",
    "programs/tests/test_infer": "echo 1..1; echo 'ok 1 - infer'",
    "programs/tests/test_bench": "echo 1..1; echo 'left out: it is slow'; echo 'not ok 1 # SKIP slow'; "
                                 "echo 1..1; echo 'ok 1 - bench'",
    "programs/tests/cudnn_plans/list_convs": "echo forward",
    "programs/tests/cudnn_plans/live_plans": "cat >/dev/null; echo '{\"convolutions\":[{\"ok\":true}]}'",
}


STEP = {"step_ms": 2, "step_p90_ms": 3, "weight_step_ms": 1, "arch_step_ms": 1, "images_per_s": 9, "ops_ms": 5,
        "ops_in_place_ms": 7, "peak": {"gflops": 1, "read_gbs": 2, "copy_gbs": 3}}
ROW = {"name": "dwpw", "nodes": 6, "ms": 0.5, "share": 0.1, "gbs": 10, "of_roof": 0.2}
PLACED = {"in_place_ms": 0.7, "in_place_share": 0.3, "in_place_gbs": 7, "in_place_of_roof": 0.1}


def make_fake(fake):
    with open(os.path.join(fake, "ops.json"), "w") as f:
        json.dump(dict(STEP, ops=[dict(ROW, **PLACED), ROW], top=[ROW]), f)
    for name, text in SCRIPTS.items():
        path = os.path.join(fake, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write("#!/bin/bash\n" + text + "\n")
        os.chmod(path, 0o755)
    for name in ("include/cuda_runtime_api.h", "include/cudnn.h", "include/cublasLt.h", "include/cusparse.h",
                 "lib64/libcudart.so", "lib64/libcudnn.so", "lib64/libcublasLt.so", "lib64/libcusparse.so"):
        path = os.path.join(fake, "cuda", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    os.makedirs(os.path.join(fake, "python", "torch"))
    with open(os.path.join(fake, "python", "torch", "__init__.py"), "w") as f:
        f.write("raise ImportError('this torch is none')\n")
    plugin = os.path.join(fake, "programs", "libdass_cuda.so")
    subprocess.run([*os.environ.get("CC", "cc").split(), "-std=gnu11", "-shared", "-fPIC", "-Iinclude", "-o", plugin,
                    "tests/stub/stub_plugin.c"], cwd=ROOT, check=True)


def start(fake, name, *words, **env):
    """gpu_check.py with a build folder and a report folder of its own; its process and that report folder."""
    out = os.path.join(fake, name)
    os.makedirs(out)
    forget(fake)
    names = ("DASS_CUDA_PLUGIN", "GENCODE", "DASS_TEST_SHORT", "DASS_TEST_BACKEND", "LD_LIBRARY_PATH")
    keep = {k: v for k, v in os.environ.items() if k not in names}
    keep.update(env, PATH=os.path.join(fake, "bin") + ":" + keep["PATH"], FAKE=fake, REAL=REAL, DASS=DASS,
                CUDA_HOME=os.path.join(fake, "cuda"), PYTHONPATH=os.path.join(fake, "python"))
    with open(os.path.join(out, "talk"), "w") as talk:
        child = subprocess.Popen([sys.executable, "tools/gpu_check.py", "--commit", "c0", "--build",
                                  os.path.join(out, "build"), "--out", out, *words], cwd=ROOT, env=keep, stdout=talk,
                                 stderr=subprocess.STDOUT)
    return child, out


def report_of(out, suffix="", kind="json"):
    with open(os.path.join(out, f"gpu-stub-h100-c0{suffix}.{kind}")) as f:
        return json.load(f) if kind == "json" else f.read()


def states(report):
    return {s["name"]: s["state"] for s in report["steps"]}


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def grandchild(fake, seconds=30):
    path = os.path.join(fake, "grandchild")
    until = time.monotonic() + seconds
    while not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.02)
    with open(path) as f:
        pid = int(f.read())
    os.unlink(path)
    return pid


def forget(fake):
    """What a test that failed may have left."""
    if os.path.exists(os.path.join(fake, "grandchild")):
        pid = grandchild(fake, 0)
        if lives(pid):
            os.killpg(os.getpgid(pid), signal.SIGKILL)


def same(what, got, want):
    assert got == want, f"{what}: {got!r}, not {want!r}"


# ---- the tests -------------------------------------------------------------------------------------------------------

OPS = "operations agree with the reference"
SHORT = "short: whole steps agree; merged, recorded and twice are the same bytes"


def a_whole_run_tells_what_failed(fake):
    child, out = start(fake, "whole", "--limit", "tests=3", STUBBORN="1")
    status = child.wait(timeout=120)
    r, text, log = report_of(out), report_of(out, kind="md"), report_of(out, kind="log")
    step = {s["name"]: s for s in r["steps"]}
    same("exit status", status, 1)
    same("state", (r["state"], r["programs"]), ("finished", "built here"))
    same("failed", set(r["failed"]), {"build", "smoke: capture and replay", SHORT, SHORT[len("short: "):], OPS})
    same("others", {s["state"] for s in r["steps"] if s["name"] not in r["failed"] and s["part"] != "torch"}, {"ok"})
    assert any("spilled" in line for line in step["build"]["output"]) and "warnings allowed" in text
    with open(os.path.join(fake, "make.log")) as f:
        makes = [set(line.split()) for line in f]
    same("builds", [("-k" in m, "GENCODE=90" in m, "NVWERROR=0" in m) for m in makes],
         [(True, True, False), (True, True, True)])
    # The plugin that was built is the one that the tests ran on, and what it cannot do is a failure.
    assert "cuda:0 the stub of a card" in log
    same("smoke", step["smoke: capture and replay"]["why"], "exit status 1; failed: capture_and_replay")
    assert step["search step, dense, fp32"]["result"]["step_ms"] > 0 and "| dense fp32 |" in text
    for row in ("| 30.0 % | 0.700 | 0.500 | 6 | 7 | dwpw |", "| 10.0 % | 0.500 | 0.500 | 6 | 10 | dwpw |",
                "| 500.0 | 500.0 | 6 | 10 | 20 % | `dwpw` |"):
        assert row in text, row
    # A skipped test, by name; one left out by choice is none.
    why = step[SHORT]["why"]
    assert why.startswith("skipped: a_dense_search_step_agrees, "), why
    assert why.endswith("(cuda: skipped: no plugin at /none, which DASS_CUDA_PLUGIN names)"), why
    same("left out", step["what bench step measures adds up"]["result"]["left_out"], [["slow", "left out: it is slow"]])
    # Out of time: what was printed is kept, and everything it started is gone.
    same("ops", (step[OPS]["state"], step[OPS]["why"]),
         ("timed out", "not finished in 3 s; 1 of 2 tests had passed"))
    same("output", step[OPS]["output"], ["1..2", "ok 1 - the first"])
    assert "    ok 1 - the first" in text and "| " + OPS + " | timed out" in text
    assert not lives(grandchild(fake, 0)), "the grandchild of what ran out of time is still there"
    # Somebody else's failure is told and does not count.
    same("torch", {s["state"] for s in r["steps"] if s["part"] == "torch"}, {"failed"})
    same("ncu", r["ncu"][1]["metrics"], {"Achieved Occupancy": "24.9 %"})
    same("latency", len(r["latency"]), 14)


def the_report_is_there_after_every_step(fake):
    child, out = start(fake, "killed", "--parts", "smoke,tests", STUBBORN="")
    sleeper = grandchild_running(fake, out)
    child.kill()
    child.wait()
    r, text = report_of(out, "-smoke-tests"), report_of(out, "-smoke-tests", "md")
    os.killpg(os.getpgid(sleeper), signal.SIGKILL)
    same("state", r["state"], "running")
    same("steps", [states(r)[n] for n in ("smoke: a device is found", "smoke: capture and replay", SHORT, OPS,
                                          "what bench step measures adds up")],
         ["ok", "failed", "failed", "running", "not run"])
    assert "| smoke: a device is found | ok |" in text


def grandchild_running(fake, out):
    pid = grandchild(fake)
    same("running", states(report_of(out, "-smoke-tests"))[OPS], "running")
    return pid


def a_signal_leaves_a_complete_report(fake):
    child, out = start(fake, "stopped", "--parts", "smoke,tests", STUBBORN="")
    sleeper = grandchild_running(fake, out)
    child.send_signal(signal.SIGTERM)
    same("exit status", child.wait(timeout=30), 128 + signal.SIGTERM)
    r = report_of(out, "-smoke-tests")
    step = {s["name"]: s for s in r["steps"]}
    same("state", r["state"], "stopped by SIGTERM")
    same("step", (step[OPS]["state"], step[OPS]["output"]), ("stopped", ["1..2", "ok 1 - the first"]))
    same("next", step["what bench step measures adds up"]["why"], "stopped by SIGTERM")
    assert not lives(sleeper), "a grandchild outlived the signal"


def carried_programs_run_where_the_build_fails(fake):
    deps = os.path.join(fake, "deps")
    shutil.copytree(os.path.join(fake, "programs"), os.path.join(deps, "carried"))
    with open(os.path.join(deps, "carried", "commit"), "w") as f:
        f.write("abc\n")
    os.chmod(os.path.join(deps, "carried", "tests", "test_smoke"), 0o644)  # as a copy may leave it
    child, out = start(fake, "carried", "--parts", "smoke", "--deps", deps, MAKE_FAILS="1")
    same("exit status", child.wait(timeout=60), 1)
    r = report_of(out, "-smoke")
    same("programs", r["programs"], "carried along, not built here")
    assert "they are of commit abc" in r["notes"][0]
    same("failed", r["failed"], ["build", "build with the device compiler's warnings allowed",
                                 "smoke: capture and replay"])
    assert "cuda:0 the stub of a card" in report_of(out, "-smoke", "log")
    # And with neither, the report says so.
    child, out = start(fake, "nothing", "--parts", "smoke", MAKE_FAILS="1")
    same("exit status", child.wait(timeout=60), 1)
    r = report_of(out, "-smoke")
    same("steps", {s["why"] for s in r["steps"] if s["part"] == "smoke"},
         {"no program, or no plugin, was built or carried along"})


def no_step_begins_when_the_minutes_are_spent(fake):
    gpu_run.LEAST = 0.1
    runner = gpu_run.Runner(ROOT, 0.02, lambda: None, lambda step, texts: None)
    steps = [gpu_run.Step("p", n, ["sh", "-c", text], limit) for n, text, limit in
             (("short", "echo out; sleep 60", 0.2), ("fine", "echo fine", 9), ("gone", "kill -9 $$", 9),
              ("long", "echo some; sleep 60", 9), ("late", "echo late", 9))]
    for step in steps:
        runner.run(step)
    same("states", [s.state for s in steps], ["timed out", "ok", "failed", "timed out", "not run"])
    same("why", [s.why for s in steps[1:3] + steps[4:]], ["", "ended by SIGKILL", "the minutes are spent"])
    assert steps[3].why.endswith("when the minutes were spent") and steps[3].output == ["some"], steps[3].why
    same("good", [s.bad() for s in steps], [True, False, True, True, True])


def tests_not_reached_are_told(fake):
    told = gpu_run.judge_tests(gpu_run.read_tests("1..3\nok 1 - a\nwhy\nnot ok 2 # SKIP b\nSegmentation fault\n"))
    same("ended early", told, "skipped: b (why); ended after 2 of 3 tests")
    same("none", gpu_run.judge_tests(gpu_run.read_tests("")), "no test ran")
    same("left out", gpu_run.judge_tests(gpu_run.read_tests("1..2\nok 1 - a\nleft out: slow\nok 2 # SKIP b\n")), "")


def main():
    tests = (a_whole_run_tells_what_failed, the_report_is_there_after_every_step, a_signal_leaves_a_complete_report,
             carried_programs_run_where_the_build_fails, no_step_begins_when_the_minutes_are_spent,
             tests_not_reached_are_told)
    print(f"1..{len(tests)}")
    if os.environ.get("MODE", "release") != "release" or not os.path.exists(os.path.join(REAL, "test_smoke")):
        for i, test in enumerate(tests):
            print(f"ok {i + 1} - {test.__name__} # SKIP needs the programs and the tests of a release build")
        return 0
    bad = 0
    fake = tempfile.mkdtemp(prefix="gpu_check_real.")
    try:
        make_fake(fake)
        for i, test in enumerate(tests):
            try:
                test(fake)
                print(f"ok {i + 1} - {test.__name__}", flush=True)
            except Exception as e:  # whatever it is, the next test runs
                bad += 1
                print(f"not ok {i + 1} - {test.__name__}\n# {e!r}", flush=True)
    finally:
        forget(fake)
        shutil.rmtree(fake, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
