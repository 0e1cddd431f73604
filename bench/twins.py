"""The arguments and the table of bench/twins.sh. Reads what runs wrote; needs nothing but Python.

twins.py sizes RUN WHICH      names of the smaller sizes: all of them, or the last
twins.py parent RUN           the parent's directory
twins.py shape RUN SIZE       arguments of `nestling pretrain`: this size's shape, and a name
twins.py scratch RUN SIZE     arguments of `nestling pretrain`: this size's shape, from fresh weights
twins.py alone RUN SIZE       arguments of `nestling train`: this size's cut of the parent, by itself
twins.py table RUN            accuracies and paired differences, from RUN/twins/*.json
"""

import json
import math
import pathlib
import re
import sys


def config_value(text, key):
    """The first value of a key of the effective config, which names each key on a line of its own."""
    return re.search(rf"^\s*(?:- )?{key}: *(.*)$", text, re.M).group(1).strip('"')


class Run:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = (self.folder / "config.yaml").read_text()
        self.summary = json.loads((self.folder / "summary.json").read_text())
        self.name = config_value(self.config, "name")
        self.sizes = {s["name"]: s for s in self.summary["sizes"]}

    def full(self):
        return next(iter(self.sizes.values()))

    def smaller(self):
        return list(self.sizes)[1:]

    def phases(self):
        """How many phases, and their tokens together."""
        block = re.search(r"^curriculum:\n((?: .*\n)+)", self.config, re.M).group(1)
        tokens = [int(t) for t in re.findall(r"^\s*tokens: (\d+)$", block, re.M)]
        return len(tokens), sum(tokens)


def settings(pairs):
    for key, value in pairs.items():
        print("--set")
        print(f"{key}={value}")


def shape(run, size):
    w = run.sizes[size]["widths"]
    settings({"name": f"{run.name}-{size}-scratch"} |
             {f"model.{axis}": w[axis]
              for axis in ("hidden", "query_heads", "mamba_heads", "experts", "expert_ffn", "shared_ffn")})


def scratch(run, size):
    batch = config_value(run.config, "global_batch_tokens")
    _, tokens = run.phases()
    shape(run, size)
    settings({
        "tokens": tokens,
        "global_batch_tokens": batch,
        "micro_batch": 4,
        "optimizer.warmup_tokens": tokens // 20,
        "checkpoint.every_tokens": tokens // 4,
        "log.validate_every_steps": 1000000,
    })


def alone(run, size):
    wide, narrow = run.full()["widths"], run.sizes[size]["widths"]
    pairs = {
        "name": f"{run.name}-{size}-alone",
        "elastic.sizes": f"[{{name: {run.full()['name']}, target: full}}, "
                         f"{{name: {size}, target: {{active_params: {run.sizes[size]['params_active']}}}}}]",
        "router.dead_zone": 0.0005,
        "router.freeze.at_tokens": 1,
        "distill.sizes_per_micro_batch": 2,
        "log.validate_every_steps": 1000000,
    }
    for axis in ("hidden", "mamba_heads", "query_heads", "experts", "expert_ffn", "shared_ffn"):
        cut = wide[axis] != narrow[axis]
        pairs[f"elastic.choices.{axis}"] = f"[{wide[axis]}, {narrow[axis]}]" if cut else "[]"
    for phase in range(run.phases()[0]):
        pairs[f"curriculum.{phase}.sampling"] = f"{{{size}: 1}}"
    settings(pairs)


def paired(a, b):
    """accuracy(a) - accuracy(b) on the same problems with its 95% interval (Bonett and Price 2012)."""
    n = len(a)
    assert n == len(b)
    only_a = sum(x == "1" and y == "0" for x, y in zip(a, b))
    only_b = sum(x == "0" and y == "1" for x, y in zip(a, b))
    pa, pb = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = 1.959964 * math.sqrt((pa + pb - (pa - pb) ** 2) / (n + 2))
    return (only_a - only_b) / n, pa - pb - half, pa - pb + half


def table(run):
    def entry(name, size):
        sizes = json.loads((run.folder / "twins" / f"{name}.json").read_text())["sizes"]
        return next(s for s in sizes if size is None or s["name"] == size)

    def read(name, size=None):
        return entry(name, size) | {"kl_to_parent": entry(f"{name}-text", size)["kl_to_parent"]}

    def line(label, model, against=None):
        task = model["tasks"]["reasoning"]
        low, high = task["ci95"]
        text = (f"{label:<28} {model['params_active']:>10} {100 * task['accuracy']:>6.1f}%  "
                f"{100 * low:.1f} to {100 * high:.1f}  KL {model['kl_to_parent']:.4f}")
        if against is not None:
            d, l, h = paired(against["tasks"]["reasoning"]["outcomes"], task["outcomes"])
            text += f"   elastic {100 * d:+.1f} points ({100 * l:+.1f} to {100 * h:+.1f})"
        print(text)

    parent = read("parent")
    print(f"{'model':<28} {'active':>10} solved of {parent['tasks']['reasoning']['n']}, 95% interval")
    line("parent", parent)
    for name in run.sizes:
        elastic = read("elastic", name)
        d, l, h = paired(elastic["tasks"]["reasoning"]["outcomes"], parent["tasks"]["reasoning"]["outcomes"])
        line(name, elastic)
        print(f"{'':<28} against the parent {100 * d:+.1f} points ({100 * l:+.1f} to {100 * h:+.1f})")
        if name in run.smaller():
            for label, twin in (("cut, untrained", "before"), ("from scratch", "scratch"), ("distilled alone", "alone")):
                if (run.folder / "twins" / f"{name}-{twin}.json").exists():
                    line(f"{name}, {label}", read(f"{name}-{twin}"), elastic)
    if (run.folder / "twins" / "also.json").exists():
        line("another model", read("also"), read("elastic", run.full()["name"]))


def main():
    what, run = sys.argv[1], Run(sys.argv[2])
    if what == "sizes":
        print("\n".join(run.smaller()[{"all": 0, "last": -1}[sys.argv[3]]:]))
    elif what == "parent":
        print(config_value(run.config, "parent"))
    elif what == "table":
        table(run)
    else:
        {"shape": shape, "scratch": scratch, "alone": alone}[what](run, sys.argv[3])


main()
