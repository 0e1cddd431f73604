#!/usr/bin/env python3
"""The machine.json of a result: what it was measured on, as one JSON object."""
import importlib.metadata
import json
import os
import platform
import re
import subprocess


def first(pattern, path):
    found = re.search(pattern, open(path).read(), re.M)
    return found.group(1).strip() if found else None


def said(*command):
    """What a program prints, None where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


flags = (first(r"^flags\s*:(.*)", "/proc/cpuinfo") or "").split()
isa = [f for f in ("avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in flags]
print(json.dumps({
    "cpu": first(r"^model name\s*:(.*)", "/proc/cpuinfo"), "cores": os.cpu_count(), "isa": " ".join(isa),
    "memory_gib": round(int(first(r"^MemTotal:\s*(\d+)", "/proc/meminfo")) / 2**20), "os": first(r'^PRETTY_NAME="(.*)"', "/etc/os-release"),
    "load_before": open("/proc/loadavg").read().split()[0], "gpu": said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"), "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    "commit": said("git", "rev-parse", "--short", "HEAD")}, indent=1))
