"""The arithmetic limit: how many float64 fused multiply-adds the cores really do in a second."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm

from benchmarks.machine import vector_lanes
from benchmarks.timing import seconds_of

# Enough independent chains to hide the latency of a multiply-add (4 cycles, up to 2 of them a cycle), few enough for
# 16 registers.
_CHAINS = 12


def _source(lanes: int) -> str:
    """LLVM IR of a loop over `_CHAINS` independent accumulators x ← x·a + a, in registers only."""
    vector = f"<{lanes} x double>"
    name = f"@llvm.fma.v{lanes}f64"
    chains = range(_CHAINS)
    phis = "\n".join(f"  %x{c} = phi {vector} [%start, %entry], [%y{c}, %loop]" for c in chains)
    steps = "\n".join(f"  %y{c} = call {vector} {name}({vector} %x{c}, {vector} %a, {vector} %b{c})" for c in chains)
    different = "\n".join(f"  %b{c} = fadd {vector} %a, %s{c}" for c in chains)
    seeds = "\n".join(f"  %s{c} = insertelement {vector} %start, double {float(c)}, i32 0" for c in chains)
    sums = [f"  %t0 = fadd {vector} %y0, %y1"]
    sums += [f"  %t{c} = fadd {vector} %t{c - 1}, %y{c + 1}" for c in range(1, _CHAINS - 1)]
    return f"""
declare {vector} {name}({vector}, {vector}, {vector})
define double @multiply_add(i64 %n, double %factor) {{
entry:
  %one = insertelement {vector} undef, double %factor, i32 0
  %a = shufflevector {vector} %one, {vector} undef, <{lanes} x i32> zeroinitializer
  %start = fmul {vector} %a, %a
{seeds}
{different}
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{phis}
{steps}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{chr(10).join(sums)}
  %result = extractelement {vector} %t{_CHAINS - 2}, i32 0
  ret double %result
}}
"""


def _compile(lanes: int) -> tuple[Callable[[int], None], object]:
    """Return a function of the number of loop turns, and the engine that must stay alive with it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(_source(lanes))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    address = engine.get_function_address("multiply_add")
    call = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)(address)

    def turns(n: int) -> None:
        call(n, 0.5)  # ctypes releases the interpreter lock

    return turns, engine


def measure(threads: int, *, rounds: int = 7, turns: int = 10_000_000) -> float:
    """Return the rate of all threads together, in 1e9 float64 multiply-adds per second (best of the rounds: a peak)."""
    lanes = vector_lanes()
    run, engine = _compile(lanes)
    with ThreadPoolExecutor(threads) as pool:

        def together() -> None:
            for job in [pool.submit(run, turns) for _ in range(threads)]:
                job.result()

        together()
        seconds = [seconds_of(together) for _ in range(rounds)]
    del engine
    return threads * turns * _CHAINS * lanes / min(seconds) / 1e9


if __name__ == "__main__":
    for count in (1, 2):
        print(f"{count} thread(s): {measure(count):.1f} GFMA/s")
