"""Runs the steps of tools/gpu_check.py: each in a session of its own, with a limit, its output in files.

A step is data; what became of it is written into it. Nothing here knows what the steps are about.
"""
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time

OK, FAILED, TIMED_OUT, STOPPED = "ok", "failed", "timed out", "stopped"
NOT_RUN, ABSENT, RUNNING = "not run", "absent", "running"  # absent: what it needs is not on this machine
GRACE = 3  # seconds between SIGTERM and SIGKILL, and after it
LEAST = 5  # seconds: with less left no step begins
TAIL_LINES = 200  # of the output of what went wrong, in the report
OUTPUT_BYTES = 512 * 1024  # of the output of one step that are kept


@dataclasses.dataclass
class Step:
    part: str
    name: str
    argv: list = None
    limit: float = 60  # seconds
    read: object = None  # makes the result from stdout; raises what it does not understand
    tests: bool = False  # prints TAP: a test that fails, is skipped or is not reached fails the step
    env: dict = dataclasses.field(default_factory=dict)
    stdin: object = None  # text, or a function of the kit that gives it
    call: object = None  # instead of argv: a function that gives (state, why)
    needs: object = None  # a function that says what is missing on this machine, or None; then the step is absent
    counts: bool = True  # False: told, but no failure of the whole: not our programs, or somebody else's tools
    key: str = None  # where the report puts the result
    state: str = NOT_RUN
    why: str = ""
    seconds: float = None
    result: object = None
    output: list = None

    def bad(self):
        return self.counts and self.state not in (OK, ABSENT, RUNNING)

    def told(self):
        row = {"part": self.part, "name": self.name, "state": self.state, "why": self.why,
               "command": shlex.join(self.argv) if self.argv else "", "counts": self.counts}
        for name in ("key", "seconds", "result", "output"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        return row


class Stopped(BaseException):
    """A signal to end: what is being done is cut off, and the report says so."""


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_at_signals():
    def stop(number, _):
        for s in STOPPING:
            signal.signal(s, signal.SIG_IGN)  # one is enough; the report is being finished
        raise Stopped(signal.Signals(number).name)
    for s in STOPPING:
        if signal.getsignal(s) != signal.SIG_IGN:  # nohup, say
            signal.signal(s, stop)


def hold_signals(held):
    """While they are held they wait: no child is lost between its start and the variable that names it."""
    signal.pthread_sigmask(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, STOPPING)


# ---- processes -------------------------------------------------------------------------------------------------------


def group_lives(group):
    """Is there a process of this group that is more than an entry its parent has not asked for?"""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                state, _, of = f.read().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False


def end_group(child):
    """End the child and all that it started in its session's first group; says whether all of it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        child.poll()
        if not group_lives(child.pid):
            return True
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        while time.monotonic() < until:
            child.poll()
            if not group_lives(child.pid):
                return True
            time.sleep(0.02)
    return False  # inside a driver's call, say; its output is a file, so nobody waits for it


def execute(argv, cwd, env, stdin, limit, out, err):
    """Exit status (None: out of time), and whether all processes are gone. out and err are open files; a pipe would be
    held by whatever the command leaves behind."""
    with tempfile.TemporaryFile() as text:
        text.write((stdin or "").encode())
        text.seek(0)
        hold_signals(True)
        try:
            child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=text, stdout=out, stderr=err, start_new_session=True,
                                     preexec_fn=lambda: hold_signals(False))
        except OSError:
            hold_signals(False)
            raise
    status = None
    try:
        hold_signals(False)
        status = child.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        pass
    finally:
        hold_signals(True)
        gone = end_group(child)
        hold_signals(False)
    return status, gone


# ---- tests -----------------------------------------------------------------------------------------------------------

TELLING = re.compile(r"cases|largest error|launches alone|GB/s|ERROR SUMMARY|RACECHECK SUMMARY|of what bf16 moves")
LEFT_OUT = "left out: "  # tests/check.h: by choice


def read_tests(text):
    """Of TAP as cmocka prints it: who failed, who was skipped, and why."""
    out = {"planned": 0, "passed": 0, "failed": [], "skipped": [], "left_out": [], "said": []}
    before = ""
    for line in text.splitlines():
        plan = re.match(r"1\.\.(\d+)$", line)
        test = re.match(r"(not )?ok (\d+)(?: -)? ?(.*)", line)
        if plan:
            out["planned"] += int(plan.group(1))
        elif test and "# SKIP" in line:
            name = line.split("# SKIP")[1].strip() or test.group(3)
            by_choice = before.startswith(LEFT_OUT)
            out["left_out" if by_choice else "skipped"].append([name, before])
        elif test and test.group(1):
            out["failed"].append(test.group(3))
        elif test:
            out["passed"] += 1
        elif TELLING.search(line):
            out["said"].append(line.strip())
        before = "" if plan or test else line.strip()
    return out


def judge_tests(t):
    """Why these tests are no success, or ''."""
    done = t["passed"] + len(t["failed"]) + len(t["skipped"]) + len(t["left_out"])
    words = [f"failed: {', '.join(t['failed'])}"] if t["failed"] else []
    for reason in dict.fromkeys(why for _, why in t["skipped"]):
        names = ", ".join(name for name, why in t["skipped"] if why == reason)
        words.append(f"skipped: {names} ({reason or 'without a word'})")
    if done < t["planned"]:
        words.append(f"ended after {done} of {t['planned']} tests")
    if t["passed"] == 0 and not words:
        words.append("no test ran")
    return "; ".join(words)


# ---- steps -----------------------------------------------------------------------------------------------------------


def words_of(argv, kit):
    return [re.sub(r"^\{(\w+)\}", lambda m: kit[m.group(1)], w) for w in argv]


class Runner:
    """kit: what {words} of commands stand for. changed(): called when a step begins and when it has ended."""

    def __init__(self, root, minutes, changed, log):
        self.root, self.changed, self.log = root, changed, log
        self.end = time.monotonic() + 60 * minutes
        self.kit, self.env = {}, dict(os.environ)

    def run(self, step):
        left = self.end - time.monotonic()
        missing = step.needs() if step.needs else None
        if missing:
            step.state, step.why = ABSENT, missing
        elif left < LEAST:
            step.why = "the minutes are spent"
        else:
            step.state = RUNNING
            self.changed()
            began = time.monotonic()
            try:
                if step.call:
                    step.state, step.why = step.call()
                else:
                    self.run_command(step, left)
            except Stopped as e:
                step.state, step.why = STOPPED, str(e)
                raise
            finally:
                step.seconds = round(time.monotonic() - began, 1)
                self.changed()
            return
        self.changed()

    def run_command(self, step, left):
        step.argv = words_of(step.argv, self.kit)
        env = {**self.env, **step.env}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                stdin = step.stdin(self.kit) if callable(step.stdin) else step.stdin
                # The lines of tests stay in order when both go to one file.
                status, gone = execute(step.argv, self.root, env, stdin, min(step.limit, left), out,
                                       subprocess.STDOUT if step.tests else err)
            except OSError as e:
                step.state, step.why = FAILED, f"{step.argv[0]}: {e.strerror}"
                return
            finally:
                texts = [text_of(f) for f in (out, err)]
                self.log(step, texts)
                step.output = "\n".join(filter(None, texts)).splitlines()[-TAIL_LINES:]
        if status is None:
            step.state = TIMED_OUT
            step.why = f"not finished in {step.limit:.0f} s" if step.limit <= left else \
                f"stopped after {left:.0f} s, when the minutes were spent"
        elif status != 0:
            step.state = FAILED
            step.why = f"exit status {status}" if status > 0 else f"ended by {signal_name(-status)}"
        else:
            step.state = OK
        if not gone:
            step.why += "; a process of it could not be ended"
        read_result(step, texts[0])
        if step.state == OK:
            step.output = None


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def text_of(file):
    """Beginning and end of a file."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    if size <= OUTPUT_BYTES:
        return file.read().decode(errors="replace")
    head = file.read(OUTPUT_BYTES // 2).decode(errors="replace")
    file.seek(size - OUTPUT_BYTES // 2)
    return f"{head}\n... {size - OUTPUT_BYTES} bytes are left out ...\n{file.read().decode(errors='replace')}"


def read_result(step, text):
    if step.tests:
        step.result = read_tests(text)
        why = judge_tests(step.result)
        if step.state == TIMED_OUT:
            step.why += f"; {step.result['passed']} of {step.result['planned']} tests had passed"
        elif why:
            step.state = FAILED
            step.why = f"{step.why}; {why}" if step.why else why
    elif step.read is not None:
        try:
            step.result = step.read(text)
        except (ValueError, KeyError, TypeError, IndexError) as e:
            if step.state == OK:
                step.state, step.why = FAILED, f"its output was not understood: {e!r}"


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
