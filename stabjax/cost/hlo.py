"""Count kernels and bytes in the text of a compiled GPU or TPU program.

XLA gives no cost analysis for a GPU program compiled without a GPU, and that of a TPU
program counts a buffer again when it is fetched ahead into the memory of the core.
What a program moves to and from device memory can be read from its entry computation:
each kernel reads its operands and writes its results, except that a slice reads only
the slice and a dynamic update writes only the update. What lies in another memory
space, marked ``S(1)`` in the layout, is not counted.
"""

import math
import re
from typing import NamedTuple

_WIDTH = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4}
_WIDTH |= {"bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_SHAPE = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"\s*(?:ROOT )?%(\S+) = (.+?) ([\w-]+)\((.*)$")
_KERNELS = ("fusion", "reduce", "sort", "custom-call", "scatter", "gather", "slice")
_COPIES = ("copy", "copy-start", "slice-start")
_COLLECTIVE = re.compile(
    r" (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)


class Traffic(NamedTuple):
    """What a program does.

    Attributes:
        kernels: Launches, copies apart.
        copies: Device-to-device copies.
        conditionals: Conditionals and loops; each stalls the host.
        collectives: Exchanges between devices.
        bytes: Bytes of device memory read and written by both.
    """

    kernels: int
    copies: int
    conditionals: int
    collectives: int
    bytes: int


def traffic(text: str) -> Traffic:
    """Count the kernels, copies, conditionals and bytes of a program.

    Args:
        text: `jax.stages.Compiled.as_text` of a program for a GPU or a TPU.

    Returns:
        The counts of its entry computation.
    """
    computations = _computations(text)
    entry = _lines(computations["ENTRY"])
    sizes = {name: _bytes(shape) for name, shape, _, _ in entry}
    kernels = copies = moved = 0
    for name, shape, operation, rest in entry:
        if operation in _COPIES:
            copies += 1
            moved += _copied(operation, shape)
        elif operation in _KERNELS and "ConcatBitcast" not in rest:
            kernels += 1
            if operation == "slice":
                moved += 2 * sizes[name]
            else:
                moved += _moved(name, rest, sizes, computations)
    stalls = len(re.findall(r" (?:conditional|while)\(", text))
    return Traffic(kernels, copies, stalls, len(_COLLECTIVE.findall(text)), moved)


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        start = re.match(r"(ENTRY )?%(\S+) \(.*\{$", line)
        if start:
            current = found["ENTRY" if start[1] else start[2]] = []
        elif line.strip() != "}":
            current.append(line)
    return found


def _lines(lines: list[str]) -> list[tuple[str, str, str, str]]:
    matches = (_LINE.match(line) for line in lines)
    return [(m[1], m[2], m[3], m[4]) for m in matches if m]


def _copied(operation: str, shape: str) -> int:
    """Return what a copy reads and writes; an asynchronous one names both ends."""
    if operation == "copy":
        return 2 * _bytes(shape)
    ends = [match[0] for match in _SHAPE.finditer(shape)]
    if operation == "copy-start":
        return sum(_bytes(end) for end in ends[:2])
    source, target = ends[:2]
    taken = _bytes(target.partition("{")[0])
    return taken * (_bytes(source) > 0) + _bytes(target)


def _moved(
    name: str, rest: str, sizes: dict[str, int], computations: dict[str, list[str]]
) -> int:
    operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
    called = re.search(r"calls=%(\S+?)[,}\s]", rest + " ")
    if not called:
        return sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    inside = _lines(computations[called[1]])
    shapes = {n: _bytes(shape) for n, shape, _, _ in inside}
    updates = [r for _, _, op, r in inside if op == "dynamic-update-slice"]
    written = sizes[name]
    if updates:
        written = sum(shapes[re.findall(r"%([\w.-]+)", r)[1]] for r in updates)
    read = 0
    for parameter, shape, operation, argument in inside:
        if operation == "parameter":
            whole = min(
                _bytes(shape),
                sizes.get(operands[int(argument[0 : argument.index(")")])], 0),
            )
            read += min(whole, _read_of(parameter, inside, shapes, whole))
    return written + read


def _read_of(
    parameter: str,
    inside: list[tuple[str, str, str, str]],
    shapes: dict[str, int],
    whole: int,
) -> int:
    """Return the bytes read of a parameter: less if it is only sliced."""
    read = 0
    for name, _, operation, rest in inside:
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        if parameter not in operands:
            continue
        if operation in ("slice", "dynamic-slice"):
            read += shapes[name]
        elif operation == "dynamic-update-slice" and operands[0] == parameter:
            read += 0
        elif operation == "bitcast":
            read += _read_of(name, inside, shapes, whole)
        else:
            return whole
    return read


def _bytes(shape: str) -> int:
    return sum(
        _WIDTH.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d)
        for kind, dims, layout in _SHAPE.findall(shape)
        if "S(" not in layout
    )
