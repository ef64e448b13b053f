"""Writes the source of the kernel for sizes too large to unroll: the same step, in run-time loops over register tiles.

Per step and block of trajectories, for each tile of four hidden columns (m):

    t = Hᵀ x                 tile of 4 rows of the smaller side × 4 columns in registers
    u, y from t and y        descent: u = y, y ← a y + t;   geometric: u = c t + s y, y ← f (y + d y + s t)
    x ← a x + H u            (geometric: f (x + H u))
    P += x yᵀ

with x on the larger side of the network (W1 if p ≥ k) and y on the smaller one. H, P and the small matrices lie in
scratch memory, (row, column, lane). The number of columns must be a multiple of COLUMN_TILE: `Layout` pads with zeros,
which every step leaves at zero. A frame (`frame.py`) is padded likewise; its tiles run through the same loop behind
those of Z, without entering P.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

from rankfall._kernels.frame import INTERVAL
from rankfall._kernels.generator import SERIES_TERMS, Variant, Writer, header
from rankfall._kernels.layout import FLUSH, NoiseGrouping

COLUMN_TILE = 4
_ROW_TILE = 4


def scratch_size(p: int, k: int, r: int, lanes: int, step_batch: int) -> int:
    """Numbers of scratch memory that a kernel (unrolled or tiled) needs for one thread."""
    small = min(p, k)
    noise = p * k * step_batch * lanes
    return noise + lanes * (2 * p * k + 6 * small * small + 3 * COLUMN_TILE * small + r * (p + k) + p + 2 * k + 8)


def source(v: Variant) -> str:
    """The source text of the tiled kernel of a variant (its p and k are read from the arguments)."""
    write, w = Writer(), v.lanes
    write(*header(v))
    with write:
        write("k0 = u64(seed) & MASK; k1 = u64(seed) >> SHIFT; one = splat(1.0); zero = splat(0.0)")
        write("p, k = gain.shape; n = p + k; size = p * k; large = max(p, k); small = min(p, k)")
        # Strides of H and P by (larger, smaller) index, and the first row of either side in a column of Z.
        write("tall = p >= k; hl = W * (k if tall else 1); hs = W * (1 if tall else k)")
        write("xo = 0 if tall else p * W; yo = p * W if tall else 0; column = n * W; square = small * small * W")
        if v.noise in ("single", "double"):
            per_call = NoiseGrouping(1, v.noise == "double").per_call
            write(f"group_steps = {per_call}")
            write(f"while group_steps > 1 and size * group_steps % {2 * per_call} == 0: group_steps //= 2")
            write(f"calls = size * group_steps // {per_call}; batch = group_steps * {8 // w}; tail = size * batch * W")
        else:
            write(f"batch = {FLUSH}; tail = 0")
        write("product = tail; increment = product + size * W; gram = increment + size * W")
        write("cc = gram + square; ss = cc + square; dd = ss + square; hold = dd + square; t = hold + square")
        write(f"u = t + {COLUMN_TILE} * small * W; new = u + {COLUMN_TILE} * small * W")
        write(f"work = new + {COLUMN_TILE} * small * W")
        write(
            "keep = splat(factors[0]); keep_squared = splat(factors[0] * factors[0])"
            if v.decay
            else "keep_squared = one"
        )
        if v.frame:
            write(f"stored = -(-n // {COLUMN_TILE}) * {COLUMN_TILE}")
        with write.block("for b in range(first_block, last_block):"):
            write("base = b * r * column; factor = one; largest = zero; replicate = u64(first_replicate + b * W)")
            _zero_product(write)
            with write.block(f"for m in range(0, r, {COLUMN_TILE}):"):
                _accumulate_product(write)
            with write.block("for q in range(first_step // batch, (first_step + steps - 1) // batch + 1):"):
                if v.noise in ("single", "double"):
                    write_noise(write, v.lanes, v.noise == "double")
                write("begin = q * batch")
                with write.block("for s in range(max(first_step - begin, 0), min(first_step + steps - begin, batch)):"):
                    _write_increment(write, v)
                    if v.step == "geometric" or v.determinant:
                        _write_gram(write)
                    if v.determinant:
                        _write_determinant(write)
                    if v.step == "geometric":
                        _write_factors(write)
                    _zero_product(write)
                    if v.frame:
                        _write_tiles_with_frame(write, v)
                    else:
                        with write.block(f"for m in range(0, r, {COLUMN_TILE}):"):
                            _write_column_tile(write, v)
                            _accumulate_product(write)
                    if v.balance and v.step == "descent":
                        write(
                            "accumulate_gram(balance, b, scratch, work, gram_weights, r, factors[0] * factors[0], one)"
                        )
                    elif v.balance:
                        write("accumulate_gram(balance, b, state, base, gram_weights, r, 1.0, one)")
                    if v.frame:
                        with write.block(f"if (begin + s + 1) % {INTERVAL} == 0:"):
                            write("reorthonormalise(frame, b, n, stored, one)")
                with write.block(f"if (q + 1) * batch % {FLUSH} == 0:"):
                    _flush(write, v, "min(begin + batch, first_step + steps)")
                    write("factor = one")
            _flush(write, v, "first_step + steps")
            if v.step == "geometric":
                write("store(scratch, t, largest)")
                with write.block("for lane in range(W):"):
                    write("extremes[b * W + lane] = max(extremes[b * W + lane], scratch[t + lane])")
    return "\n".join(write.lines) + "\n"


def _zero_product(write: Writer) -> None:
    with write.block("for e in range(size):"):
        write("store(scratch, product + e * W, zero)")


def _row_tiles(write: Writer, index: str, length: str, emit: Callable[[int], None]) -> None:
    """Emit a loop over rows in tiles of four and one over the rest; emit(width) writes the body for one tile."""
    with write.block(f"for {index} in range(0, {length} - {_ROW_TILE - 1}, {_ROW_TILE}):"):
        emit(_ROW_TILE)
    with write.block(f"for {index} in range({length} - {length} % {_ROW_TILE}, {length}):"):
        emit(1)


def _accumulate_product(write: Writer) -> None:
    """P[l, a] += Σ over the tile of x'[l] y'[a]."""
    columns = range(COLUMN_TILE)

    def rows(width_l: int) -> None:
        def inner(width_a: int) -> None:
            tile = [(i, j) for i in range(width_l) for j in range(width_a)]
            for i, j in tile:
                write(f"z{i}_{j} = load(scratch, product + (l + {i}) * hl + (a + {j}) * hs)")
            for c in columns:
                for i in range(width_l):
                    write(f"x{i} = load(state, base + (m + {c}) * column + xo + (l + {i}) * W)")
                for j in range(width_a):
                    write(f"y{j} = load(state, base + (m + {c}) * column + yo + (a + {j}) * W)")
                for i, j in tile:
                    write(f"z{i}_{j} = fma(x{i}, y{j}, z{i}_{j})")
            for i, j in tile:
                write(f"store(scratch, product + (l + {i}) * hl + (a + {j}) * hs, z{i}_{j})")

        _row_tiles(write, "a", "small", inner)

    _row_tiles(write, "l", "large", rows)


def write_noise(write: Writer, lanes: int, double: bool) -> None:
    """Normals of one batch of steps, one Philox call in eight lanes at a time."""
    shift = lanes.bit_length() - 1
    per_call = 2 if double else 4
    with write.block("for e in range(calls):"):
        write("call = STREAM_FLOW_NOISE + u64(e)")
        with write.block("for c in range(8):"):
            write(f"group = u64(q * {8 // lanes} + (c >> {shift})); lane = u64(c & {lanes - 1})")
            write(f"at = c + e * {per_call * 8}")
            write("w0, w1, w2, w3 = philox(group & MASK, group >> SHIFT, call, replicate + lane, k0, k1)")
            if double:
                write("scratch[at], scratch[at + 8] = normal_pair_double(w0, w1, w2, w3)")
            else:
                write("scratch[at], scratch[at + 8] = normal_pair_single(w0, w1)")
                write("scratch[at + 16], scratch[at + 24] = normal_pair_single(w2, w3)")


def _write_increment(write: Writer, v: Variant) -> None:
    """H = gain − curvature P + amplitude N, or the increment of a mini-batch."""
    if v.noise == "batch":
        write("minibatch_increment(scratch, tail, work, data, k0, k1, replicate, begin + s, one)")
        return
    if v.noise != "none":
        write("place = (s % group_steps) * size * 8 + (s // group_steps) * W")
    with write.block("for i in range(p):"):
        write("ci = splat(-curvature[i])")
        if v.noise != "none":
            write("ai = splat(amplitude[i])")
        with write.block("for j in range(k):"):
            write("e = i * k + j")
            noise = "splat(gain[i, j])"
            if v.noise != "none":
                noise = f"fma(ai, load(scratch, place + e * 8), {noise})"
            write(f"store(scratch, increment + e * W, fma(ci, load(scratch, product + e * W), {noise}))")


def _write_gram(write: Writer) -> None:
    """gram = HᵀH of the smaller side, both triangles."""
    with write.block("for a in range(small):"), write.block("for c in range(a, small):"):
        write("total = zero")
        with write.block("for l in range(large):"):
            write("left = load(scratch, increment + l * hl + a * hs)")
            write("total = fma(left, load(scratch, increment + l * hl + c * hs), total)")
        write("store(scratch, gram + (a * small + c) * W, total); store(scratch, gram + (c * small + a) * W, total)")


def _write_determinant(write: Writer) -> None:
    """factor *= det(a² I − HᵀH) by elimination; `hold` is overwritten."""
    with write.block("for e in range(small * small):"):
        write("store(scratch, hold + e * W, sub(zero, load(scratch, gram + e * W)))")
    with write.block("for a in range(small):"):
        write("at = hold + a * (small + 1) * W")
        write("store(scratch, at, add(keep_squared, load(scratch, at)))")
    with write.block("for c in range(small):"):
        write("pivot = load(scratch, hold + c * (small + 1) * W); factor = mul(factor, pivot)")
        with write.block("for a in range(c + 1, small):"):
            write("ratio = div(load(scratch, hold + (c * small + a) * W), pivot)")
            with write.block("for e in range(a, small):"):
                write("at = hold + (a * small + e) * W")
                write(
                    "store(scratch, at, sub(load(scratch, at), mul(ratio, load(scratch, hold + (c * small + e) * W))))"
                )


def _write_factors(write: Writer) -> None:
    """cc, ss, dd = the series c(M), s(M) and M c(M) of the geometric step (`generator._write_geometric_step`)."""
    write("trace = zero")
    with write.block("for a in range(small):"):
        write("trace = add(trace, load(scratch, gram + a * (small + 1) * W))")
    write("largest = larger(largest, trace)")
    for target, offset in (("cc", 2), ("ss", 1)):
        coefficients = [1 / factorial(2 * n + offset) for n in range(SERIES_TERMS)]
        with write.block("for e in range(small * small):"):
            write(f"store(scratch, {target} + e * W, zero)")
        with write.block("for a in range(small):"):
            write(f"store(scratch, {target} + a * (small + 1) * W, splat({coefficients[-1]!r}))")
        for coefficient in reversed(coefficients[:-1]):
            _small_product(write, "hold", target, f"splat({coefficient!r})")
            with write.block("for e in range(small * small):"):
                write(f"store(scratch, {target} + e * W, load(scratch, hold + e * W))")
    _small_product(write, "dd", "cc", "zero")


def _small_product(write: Writer, target: str, factor: str, diagonal: str) -> None:
    """target = gram · factor + diagonal · I."""
    with write.block("for a in range(small):"), write.block("for c in range(small):"):
        write(f"total = {diagonal} if a == c else zero")
        with write.block("for e in range(small):"):
            write(
                f"total = fma(load(scratch, gram + (a * small + e) * W), "
                f"load(scratch, {factor} + (e * small + c) * W), total)"
            )
        write(f"store(scratch, {target} + (a * small + c) * W, total)")


def _write_tiles_with_frame(write: Writer, v: Variant) -> None:
    """One loop over the tiles of Z and of the frame behind them: the text of a tile is what takes long to compile."""
    with write.block(f"for m in range(0, r + stored, {COLUMN_TILE}):"):
        write("columns = state if m < r else frame[0]")
        write("origin = base if m < r else (b * stored - r) * column")
        _write_column_tile(write, v, "columns", "origin")
        with write.block("if m < r:"):
            _accumulate_product(write)


def _write_column_tile(write: Writer, v: Variant, array: str = "state", base: str = "base") -> None:
    columns = range(COLUMN_TILE)
    kept = "mul(keep, {})" if v.decay else "{}"

    def transposed_product(width: int) -> None:  # t = Hᵀ x
        tile = [(i, c) for i in range(width) for c in columns]
        for i, c in tile:
            write(f"z{i}_{c} = zero")
        with write.block("for l in range(large):"):
            for i in range(width):
                write(f"h{i} = load(scratch, increment + l * hl + (a + {i}) * hs)")
            for c in columns:
                write(f"x{c} = load({array}, {base} + (m + {c}) * column + xo + l * W)")
            for i, c in tile:
                write(f"z{i}_{c} = fma(h{i}, x{c}, z{i}_{c})")
        for i, c in tile:
            write(f"store(scratch, t + ({c} * small + a + {i}) * W, z{i}_{c})")

    _row_tiles(write, "a", "small", transposed_product)
    with write.block(f"for c in range({COLUMN_TILE}):"):
        write(f"row = {base} + (m + c) * column + yo; tile = c * small * W")
        if v.step == "descent":
            with write.block("for a in range(small):"):
                write(f"y = load({array}, row + a * W); store(scratch, u + tile + a * W, y)")
                write(f"store({array}, row + a * W, add({kept.format('y')}, load(scratch, t + tile + a * W)))")
        else:
            with write.block("for a in range(small):"):
                write(f"left = zero; right = load({array}, row + a * W)")
                with write.block("for e in range(small):"):
                    write(f"te = load(scratch, t + tile + e * W); ye = load({array}, row + e * W)")
                    write("sae = load(scratch, ss + (a * small + e) * W)")
                    write("left = fma(sae, ye, fma(load(scratch, cc + (a * small + e) * W), te, left))")
                    write("right = fma(sae, te, fma(load(scratch, dd + (a * small + e) * W), ye, right))")
                write("store(scratch, u + tile + a * W, left); store(scratch, new + tile + a * W, right)")
            with write.block("for a in range(small):"):
                write(
                    f"store({array}, row + a * W, mul(splat(factors[yo // W + a]), load(scratch, new + tile + a * W)))"
                )
    if v.balance and v.step == "descent":  # the increments alone, besides the update: see the unrolled kernel
        with write.block(f"for c in range({COLUMN_TILE if not v.frame else f'{COLUMN_TILE} if m < r else 0'}):"):
            write("at = work + (m + c) * column")
            with write.block("for a in range(small):"):
                write("store(scratch, at + yo + a * W, load(scratch, t + (c * small + a) * W))")
            with write.block("for l in range(large):"):
                write("total = zero")
                with write.block("for a in range(small):"):
                    write("h = load(scratch, increment + l * hl + a * hs)")
                    write("total = fma(h, load(scratch, u + (c * small + a) * W), total)")
                write("store(scratch, at + xo + l * W, total)")

    def forward_product(width: int) -> None:  # x ← a x + H u
        tile = [(i, c) for i in range(width) for c in columns]
        for i, c in tile:
            x = f"load({array}, {base} + (m + {c}) * column + xo + (l + {i}) * W)"
            write(f"z{i}_{c} = {kept.format(x)}")
        with write.block("for a in range(small):"):
            for i in range(width):
                write(f"h{i} = load(scratch, increment + (l + {i}) * hl + a * hs)")
            for c in columns:
                write(f"u{c} = load(scratch, u + ({c} * small + a) * W)")
            for i, c in tile:
                write(f"z{i}_{c} = fma(h{i}, u{c}, z{i}_{c})")
        for i, c in tile:
            value = f"z{i}_{c}" if v.step == "descent" else f"mul(splat(factors[xo // W + l + {i}]), z{i}_{c})"
            write(f"store({array}, {base} + (m + {c}) * column + xo + (l + {i}) * W, {value})")

    _row_tiles(write, "l", "large", forward_product)


def _flush(write: Writer, v: Variant, step: str) -> None:
    """As in the unrolled kernel: the factor into the logarithm, and a look for divergence."""
    if v.determinant:
        write("store(scratch, t, factor)")
        with write.block("for lane in range(W):"):
            write("log_ledger[b * W + lane] += log(abs(scratch[t + lane]))")
    write("total = zero")
    with write.block("for e in range(size):"):
        write("total = add(total, absolute(load(scratch, product + e * W)))")
    write("store(scratch, t, total)")
    with write.block("for lane in range(W):"):
        with write.block("if not scratch[t + lane] < 1e100 and diverged_at[b * W + lane] < 0:"):
            write(f"diverged_at[b * W + lane] = {step}")
