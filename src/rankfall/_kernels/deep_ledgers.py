"""Writes the ledgers of a deep kernel: determinant and balance of every pair of neighbouring layers.

With the increment H_i = D_i B_{i+1}ᵀ of the pair (i, i+1), X = D_iᵀD_i and Y = B_{i+1}ᵀB_{i+1}, both s×s:

    det(a² I − H_iᵀH_i) = a^{2 l_{i+1}} det(I − XY/a²)
    Q_i ← a² Q_i + B_i X B_iᵀ − D_{i+1} Y D_{i+1}ᵀ
"""

from __future__ import annotations

from rankfall._kernels.deep_variant import DeepVariant
from rankfall._kernels.generator import Writer

__all__ = ["reset_factors", "write_ledgers"]


def write_ledgers(write: Writer, v: DeepVariant) -> None:
    """Of every pair, from D_i, D_{i+1}, B_i and B_{i+1}."""
    write("d = inner; o = outer + large * s * W; ledger = b * squares * W")
    with write.block("for i in range(1, depth):"):
        write("width = widths[i]; e = d + widths[i - 1] * s * W; n = o + width * s * W")
        with write.block("if has_balance or wide[i - 1] != 0:"):
            _small_gram(write, v, "xx", "d", "widths[i - 1]")
            with write.block("if i + 1 < depth:"):
                _small_gram(write, v, "yy", "n", "widths[i + 1]")
            with write.block("else:"):  # B_L = I
                with write.block("for a in range(s):"), write.block("for c in range(s):"):
                    write("store(scratch, yy + (a * s + c) * W, one if a == c else zero)")
        with write.block("if wide[i - 1] != 0:"):
            _determinant(write, v)
        with write.block("if has_balance:"):
            _balance(write, v)
        write("d = e; o = n; ledger += width * width * W")


def _small_gram(write: Writer, v: DeepVariant, target: str, source: str, length: str) -> None:
    """target = source sourceᵀ, s×s, source being (length, s); both triangles."""
    if not v.several:
        entries = [(a, c) for a in range(v.small) for c in range(a, v.small)]
        for a, c in entries:
            write(f"g{a}_{c} = zero")
        with write.block(f"for r in range({length}):"):
            for a in range(v.small):
                write(f"v{a} = load(scratch, {source} + (r * s + {a}) * W)")
            for a, c in entries:
                write(f"g{a}_{c} = fma(v{a}, v{c}, g{a}_{c})")
        for a, c in entries:
            write(f"store(scratch, {target} + (s * {a} + {c}) * W, g{a}_{c})")
            if a != c:
                write(f"store(scratch, {target} + (s * {c} + {a}) * W, g{a}_{c})")
        return
    with write.block("for a in range(s):"), write.block("for c in range(a, s):"):
        write("total = zero")
        with write.block(f"for r in range({length}):"):
            write(f"left = load(scratch, {source} + (r * s + a) * W)")
            write(f"total = fma(left, load(scratch, {source} + (r * s + c) * W), total)")
        write(f"store(scratch, {target} + (a * s + c) * W, total)")
        write(f"store(scratch, {target} + (c * s + a) * W, total)")


def _determinant(write: Writer, v: DeepVariant) -> None:
    """factor *= det(I − XY/a²), by elimination without pivoting (the matrix is close to the identity)."""
    with write.block("for a in range(s):"), write.block("for c in range(s):"):
        write("total = zero")
        with write.block("for f in range(s):"):
            write("left = load(scratch, xx + (a * s + f) * W)")
            write("total = fma(left, load(scratch, yy + (f * s + c) * W), total)")
        if v.decay:
            write("total = mul(inverse, total)")
        write("store(scratch, mm + (a * s + c) * W, sub(one if a == c else zero, total))")
    write("at = factor + (i - 1) * W; total = load(scratch, at)")
    with write.block("for c in range(s):"):
        write("pivot = load(scratch, mm + c * (s + 1) * W); total = mul(total, pivot)")
        with write.block("for a in range(c + 1, s):"):
            write("ratio = div(load(scratch, mm + (a * s + c) * W), pivot)")
            with write.block("for f in range(c + 1, s):"):
                write("place2 = mm + (a * s + f) * W")
                write("upper = load(scratch, mm + (c * s + f) * W)")
                write("store(scratch, place2, sub(load(scratch, place2), mul(ratio, upper)))")
    write("store(scratch, at, total)")


def _balance(write: Writer, v: DeepVariant) -> None:
    """Lower triangle of Q_i ← a² Q_i + B_i X B_iᵀ − D_{i+1} Y D_{i+1}ᵀ."""
    for target, source, small in (("bx", "o", "xx"), ("dy", "e", "yy")):
        with write.block("for m in range(width):"), write.block("for c in range(s):"):
            write("total = zero")
            with write.block("for f in range(s):"):
                write(f"left = load(scratch, {source} + (m * s + f) * W)")
                write(f"total = fma(left, load(scratch, {small} + (f * s + c) * W), total)")
            value = "total" if target == "bx" else "sub(zero, total)"
            write(f"store(scratch, {target} + (m * s + c) * W, {value})")
    if not v.several:  # two rows at a time, whose operands stay in registers
        across = range(v.small)

        def entries(rows: int) -> None:
            for i in range(rows):
                write(f"at{i} = ledger + ((m + {i}) * width + c) * W; q{i} = load(balance, at{i})")
                if v.decay:
                    write(f"q{i} = mul(keep_squared, q{i})")
            for f in across:
                write(f"y{f} = load(scratch, o + (c * s + {f}) * W); z{f} = load(scratch, e + (c * s + {f}) * W)")
                for i in range(rows):
                    write(f"q{i} = fma(z{f}, w{i}_{f}, fma(y{f}, v{i}_{f}, q{i}))")
            for i in range(rows):
                write(f"store(balance, at{i}, q{i})")

        def row_operands(row: int, place: str) -> None:
            for f in across:
                write(f"v{row}_{f} = load(scratch, bx + ({place} * s + {f}) * W)")
                write(f"w{row}_{f} = load(scratch, dy + ({place} * s + {f}) * W)")

        with write.block("for m in range(0, width - 1, 2):"):
            row_operands(0, "m")
            row_operands(1, "(m + 1)")
            with write.block("for c in range(m + 2):"):  # one entry above the diagonal, which nobody reads
                entries(2)
        with write.block("if width % 2 == 1:"):
            write("m = width - 1")
            row_operands(0, "m")
            with write.block("for c in range(width):"):
                entries(1)
        return
    with write.block("for m in range(width):"), write.block("for c in range(m + 1):"):
        write("at = ledger + (m * width + c) * W; total = mul(keep_squared, load(balance, at))")
        with write.block("for f in range(s):"):
            write("left = load(scratch, bx + (m * s + f) * W)")
            write("total = fma(left, load(scratch, o + (c * s + f) * W), total)")
            write("left = load(scratch, dy + (m * s + f) * W)")
            write("total = fma(left, load(scratch, e + (c * s + f) * W), total)")
        write("store(balance, at, total)")


def reset_factors(write: Writer) -> None:
    with write.block("for i in range(depth):"):
        write("store(scratch, factor + i * W, one)")
