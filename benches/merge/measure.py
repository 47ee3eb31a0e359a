"""Running a command and measuring it: time, processor time, resident and anonymous memory, storage traffic.

Linux only. Time is the wall clock around spawn and wait. Memory is polled from `/proc/PID/status`, children included,
when `sample` is given. Resident memory is the kernel's own maximum (VmHWM; `ru_maxrss` is no substitute, it starts at the
size of the Python that spawned the program). Anonymous memory (heap, stacks, shared anonymous pages, swap: what a program
really needs, as opposed to mapped files that the kernel can drop) has no maximum in the kernel: a peak shorter than
the interval can be missed. Needs nothing but the standard library.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
# ru_inblock and ru_oublock count units of 512 bytes whatever the device.
SECTOR = 512
# Children are looked for on every n-th sample only: that costs more than reading one status.
CHILDREN_EVERY = 16
ANONYMOUS = ("RssAnon", "RssShmem", "VmSwap")


@dataclass
class Run:
    """What one run took."""

    seconds: float
    cpu_seconds: float
    storage_read: int
    storage_written: int
    peak_anonymous: int | None = None
    peak_resident: int | None = None


class Failed(Exception):
    """A command that did not end with 0; carries the end of what it said."""


def run(command, cwd=None, env=None, sample=None):
    """Runs a command to its end. `sample` is the interval in seconds at which memory is polled."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        sampler = Sampler(process.pid, sample) if sample else None
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        peaks = sampler.stop() if sampler else (None, None)
        if process.returncode != 0:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
            text = said.read().decode(errors="replace").strip()
            raise Failed(f"{Path(command[0]).name} ended with {process.returncode}: {text}")
    return Run(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        storage_read=usage.ru_inblock * SECTOR,
        storage_written=usage.ru_oublock * SECTOR,
        peak_anonymous=peaks[0],
        peak_resident=peaks[1],
    )


class Sampler(threading.Thread):
    """Polls the memory of a process and its descendants, and keeps the maxima of the sums."""

    def __init__(self, pid, interval):
        super().__init__(daemon=True)
        self.pids, self.interval, self.done = [pid], interval, threading.Event()
        self.anonymous, self.resident = 0, 0
        self.start()

    def run(self):
        turn = 0
        while turn == 0 or not self.done.wait(self.interval):
            if turn % CHILDREN_EVERY == 0:
                self.pids = descendants(self.pids[0])
            turn += 1
            statuses = [status(pid) for pid in self.pids]
            self.anonymous = max(self.anonymous, sum(s.get(key, 0) for s in statuses for key in ANONYMOUS))
            self.resident = max(self.resident, sum(s.get("VmHWM", 0) for s in statuses))

    def stop(self):
        """Ends the polling and returns the peaks of anonymous and of resident memory, in bytes."""
        self.done.set()
        self.join()
        return self.anonymous, self.resident


def status(pid):
    """Memory figures of one process now, in bytes; none if it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file if line.startswith(("Rss", "Vm"))]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * KIB for words in lines}


def descendants(pid):
    """The process, its children, theirs, and so on."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(word) for word in path.read_text().split()]
            except OSError:
                continue
    return found


def reference(files, copied, scratch):
    """The physical limit: reads all files with `cat`, copies one with `cp`, syncs the copy. Seconds of each and in all."""
    times = [time.perf_counter()]
    subprocess.run(["cat", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    times.append(time.perf_counter())
    # A reflink or a hole would make the copy cheaper than any output that has to be written.
    subprocess.run(["cp", "--reflink=never", "--sparse=never", str(copied), str(scratch)], check=True)
    times.append(time.perf_counter())
    descriptor = os.open(scratch, os.O_RDONLY)
    os.fsync(descriptor)
    times.append(time.perf_counter())
    os.close(descriptor)
    os.unlink(scratch)
    read, copy, sync = (b - a for a, b in zip(times, times[1:]))
    return {"seconds": times[-1] - times[0], "read": read, "copy": copy, "sync": sync}


def settle(directory):
    """An empty directory and no dirty pages: every run starts from here, outside of its time."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.sync()


def warm(files):
    """Brings files into the page cache."""
    subprocess.run(["cat", *map(str, files)], check=True, stdout=subprocess.DEVNULL)


def spread(values):
    """Best and median."""
    return {"best": min(values), "median": statistics.median(values), "all": list(values)}


def machine(directory):
    """What the figures depend on. No names, no paths."""
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    memory = {line.split(":")[0]: int(line.split()[1]) * KIB for line in open("/proc/meminfo")}
    return {
        "cpu": cpu[0] if cpu else os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory["MemTotal"],
        "memory_available": memory["MemAvailable"],
        "kernel": os.uname().release,
        "filesystem": filesystem(directory),
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def filesystem(directory):
    """Type of the file system a directory is on: that of the deepest mount point above it."""
    mounts = [line.split()[1:3] for line in open("/proc/mounts")]
    above = [(point, kind) for point, kind in mounts if Path(directory).resolve().is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]))[1]


def version(command):
    """First line that a command says to `--version`, or nothing."""
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (said.stdout.strip().splitlines() or [None])[0]


def sync(directory):
    """Seconds that it takes to sync what a program wrote and left to the kernel."""
    start = time.perf_counter()
    for path in Path(directory).iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - start
