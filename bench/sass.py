"""What nvcc made of kernels, without a card: reads `cuobjdump -sass` and prints a line for each kernel.

    cuobjdump -arch sm_90a -sass build/cuda/nestling | python3 bench/sass.py [NAME...]

code    instructions
regs    registers that are named; what is allocated is this, rounded up to a multiple of 8
flight  bytes of device memory that a thread has asked for, at most, before it uses the first of them, by loads that no
        branch parts
stack   accesses to local memory: spills, and arrays that did not fit registers
turns   the longest run in which loads and stores of global memory take turns: each such load waits for memory
        before the next one starts
narrow  stores of 4 bytes in a row to neighbouring addresses: a vector that the compiler split
moved   in loops with products of warpgroups, moves to uniform registers (R2UR): descriptors that are computed
        by each lane, because the compiler does not know the loop to be one that all lanes take alike

With names, only kernels that contain one of them.
"""

import re
import subprocess
import sys

INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+ )?(.*?)\s*;")
STORE = re.compile(r"STG\.E desc\[\w+\]\[(R\d+)\.64(?:\+(0x[0-9a-f]+))?\]")


LOAD = re.compile(r"LDG?\.E(?:\.(?!desc)\w+)* R(\d+),(.*)")
BYTES = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1, ".S8": 1}


def kernels(lines):
    """Name and [(address, instruction)] of each function."""
    name, code = None, []
    for line in lines:
        if "Function :" in line:
            if name:
                yield name, code
            name, code = line.split(":")[1].strip(), []
        elif match := INSTRUCTION.match(line):
            code.append((int(match[1], 16), match[2]))
    if name:
        yield name, code


def branches(code):
    """Where branches go, and where they are."""
    for address, text in code:
        if target := re.search(r"^BRA.*?(0x[0-9a-f]+)", text):
            yield int(target[1], 16), address


def loops(code):
    """First and last address of what is repeated."""
    return ((first, last) for first, last in branches(code) if first < last)


def registers(text):
    return {int(number) for number in re.findall(r"\bR(\d+)\b", text)}


def flight(code):
    starts = {to for to, _ in branches(code)}
    most = asked = 0
    awaited = set()
    for address, text in code:
        load = LOAD.match(text)
        used = registers(load[2] if load else text)
        if address in starts or text.startswith(("BRA", "CALL", "BSYNC")) or used & awaited:
            asked, awaited = 0, set()
        if load:
            size = next((n for mark, n in BYTES.items() if mark in text.split()[0]), 4)
            awaited |= set(range(int(load[1]), int(load[1]) + max(1, size // 4)))
            asked += size
            most = max(most, asked)
    return most


def turns(code):
    longest = run = 0
    before = None
    for _, text in code:
        kind = text[:4]
        if kind not in ("LDG.", "STG."):
            continue
        run = run + 1 if before and kind != before else 0
        longest, before = max(longest, run), kind
    return longest


def narrow(code):
    places = [(m[1], int(m[2] or "0", 16)) for _, text in code if (m := STORE.match(text))]
    return sum(a[0] == b[0] and b[1] - a[1] == 4 for a, b in zip(places, places[1:]))


def moved(code):
    most = 0
    for first, last in loops(code):
        body = [text for address, text in code if first <= address <= last]
        if any(text.startswith("HGMMA") for text in body):
            most = max(most, sum(text.startswith("R2UR") for text in body))
    return most


def short(names):
    """Demangled, without namespaces, arguments and casts."""
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    for name in plain.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|nestling::cuda::|\((int|bool|[\w:]+)\)(?=\d)", "", name)
        yield re.sub(r"^void |\(.*$", "", name)


def main():
    found = list(kernels(sys.stdin))
    print(f"{'code':>6} {'regs':>6} {'flight':>6} {'stack':>6} {'turns':>6} {'narrow':>6} {'moved':>6}  kernel")
    for name, (_, code) in sorted(zip(short([name for name, _ in found]), found)):
        if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
            continue
        stack = sum(text.startswith(("LDL", "STL")) for _, text in code)
        regs = max(registers(" ".join(text for _, text in code)), default=-1) + 1
        print(f"{len(code):>6} {regs:>6} {flight(code):>6} {stack:>6} {turns(code):>6} {narrow(code):>6} {moved(code):>6}  {name}")


main()
