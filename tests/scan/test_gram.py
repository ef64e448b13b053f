"""Gram matrices: the products and eigenvalues of BLAS and LAPACK, the bound on the error, and when it is not enough."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.linalg import hadamard
from threadpoolctl import threadpool_limits

import rankfall as rf
from rankfall.scan import scan_checkpoint
from rankfall.scan._gram import block_length, gram_in_memory, gram_of_rows
from rankfall.scan._lapack import add_gram, overwriting_eigenvalues
from rankfall.scan._measuring import measure
from rankfall.scan._spectrum import spectrum, spectrum_of_rows
from scan.files import planted

EPS = float(np.finfo(np.float32).eps)
UNIT = 2.0**-53


@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize("shape", [(5, 5), (300, 7), (7, 300), (1, 4), (4, 1)])
def test_products_are_added_to_the_upper_triangle(shape, of_rows):
    generator = np.random.default_rng(1)
    block = generator.normal(size=shape)
    side = shape[0] if of_rows else shape[1]
    before = generator.normal(size=(side, side))
    gram = before.copy()
    add_gram(block, gram, of_rows=of_rows)
    product = block @ block.T if of_rows else block.T @ block
    # A sum of k products: k roundings of |a||b| each, in either computation, and one of the sum.
    room = 2 * (max(shape) + 1) * UNIT * (np.abs(before).max() + np.linalg.norm(block) ** 2)
    assert np.abs(np.triu(gram) - np.triu(before + product)).max() <= room
    assert np.array_equal(np.tril(gram, -1), np.tril(before, -1))


@pytest.mark.parametrize("side", [1, 2, 3, 31, 32, 33, 100, 257])
def test_eigenvalues_against_numpy(side):
    generator = np.random.default_rng(side)
    matrix = generator.normal(size=(side, side))
    symmetric = matrix + matrix.T
    expected = np.linalg.eigvalsh(symmetric)
    found = overwriting_eigenvalues(np.triu(symmetric))  # the lower triangle is not looked at
    assert np.abs(found - expected).max() <= 2 * side * UNIT * np.linalg.norm(symmetric)


@pytest.mark.parametrize(
    "matrix",
    [
        np.ones((3, 3), dtype=np.float32),
        np.ones((0, 0)),
        np.ones(3),
        np.ones((3, 4)).T,
        np.broadcast_to(np.ones(3), (3, 3)),
        np.frombuffer(bytes(8 * 9 + 1), dtype=np.uint8)[1:].view(np.float64).reshape(3, 3),
    ],
)
def test_memory_that_lapack_must_not_get(matrix):
    for call in (
        lambda: overwriting_eigenvalues(matrix),
        lambda: add_gram(np.ones((3, 3)), matrix),
        lambda: add_gram(matrix, np.ones((3, 3))),
    ):
        with pytest.raises(
            ValueError, match=r"wanted a|must be C-ordered|must be 3 × 3|must be 4 × 4|not enough values"
        ):
            call()
    with pytest.raises(ValueError, match="wanted a square matrix"):
        overwriting_eigenvalues(np.ones((3, 4)))
    with pytest.raises(ValueError, match="must be 4 × 4"):
        add_gram(np.ones((3, 4)), np.ones((3, 3)))


@pytest.mark.parametrize("shape", [(12, 12), (40, 12), (12, 40), (400, 6), (6, 400)])
@pytest.mark.parametrize("kind", ["flat", "steep", "rank one", "random"])
def test_within_a_fifth_of_the_threshold_of_float32(shape, kind):
    """√δ ≤ √(1 + 10/L)·L·eps(float32)·σ₁/8 whatever the spectrum; every value within √δ and δ/σ of the exact one."""
    short = min(shape)
    values = {
        "flat": np.ones(short),
        "steep": np.geomspace(1, 1e-9, short),
        "rank one": np.eye(short)[0],
        "random": np.random.default_rng(0).uniform(size=short),
    }[kind]
    matrix = planted(values, *shape).astype(np.float32)
    found = spectrum(matrix, "gram")
    with mpmath.workdps(40):
        tall = matrix if shape[0] >= shape[1] else matrix.T
        rows = mpmath.matrix(tall.astype(float).tolist())
        exact = np.array([float(mpmath.sqrt(abs(x))) for x in mpmath.eigsy(rows.T * rows, eigvals_only=True)])[::-1]
    room = np.sqrt(1 + 10 / max(shape)) / 8
    assert room < 1 / 5 and found.error <= room * max(shape) * EPS * found.values[0]
    off = np.abs(found.values - exact)
    assert (off <= found.error).all()
    assert (off * exact <= found.error**2).all()


@pytest.mark.parametrize("shape, seed", [((4, 4), 2470), ((3, 3), 382), ((4, 3), 1135), ((3, 4), 1135)])
def test_graded_matrices_of_three_or_four_rows_stay_within_the_bound(shape, seed):
    """The worst of 7500 such matrices: up to 15·u·‖A‖_F² off, for which (m + n)·u·‖A‖_F² is too little."""
    tall = (max(shape), min(shape))
    generator = np.random.default_rng(seed)
    matrix = (generator.normal(size=tall) * 10.0 ** generator.uniform(-6, 6, (1, tall[1]))).astype(np.float32)
    found, scale = gram_in_memory(matrix if shape == tall else np.ascontiguousarray(matrix.T))
    with mpmath.workdps(40):
        rows = mpmath.matrix(matrix.astype(float).tolist())
        exact = sorted(mpmath.eigsy(rows.T * rows, eigvals_only=True), reverse=True)
        off = [abs(mpmath.mpf(each) - right) for each, right in zip(found.eigenvalues.tolist(), exact, strict=True)]
    assert scale == 1.0 and max(off) <= found.error
    # And the bound says something: an entry that is off by 1e-6 of itself breaks it.
    wrong = matrix.copy()
    wrong[np.unravel_index(np.argmax(np.abs(matrix)), tall)] *= np.float32(1 + 1e-6)
    assert abs(float(gram_in_memory(wrong)[0].eigenvalues[0]) - float(exact[0])) > found.error


def columns_of_lengths(lengths):
    """A float32 matrix whose singular values are these very numbers: orthogonal columns ±1/16, times each of them."""
    matrix = hadamard(256)[:, 1 : 1 + len(lengths)] / 16 * np.asarray(lengths)
    assert np.array_equal(matrix, matrix.astype(np.float32))
    return matrix.astype(np.float32)


@pytest.mark.parametrize("offset", [2.0**-k for k in range(2, 23)])
@pytest.mark.parametrize("sign", [1, -1])
def test_close_to_the_threshold_the_rank_is_found_by_svd_in_float64(offset, sign):
    """σ₄ = (1 ± offset)·τ exactly, τ = 256·eps(float32)·σ₁: gram where it can tell, else svd, and never a wrong rank.

    Of three values of 1 and one of τ, δ/σ₄ is (256 + 4 + 20)·u·3/τ² = 1e-4 of τ, so that the offsets lie on both sides.
    """
    lengths = [1.0, 1.0, 1.0, 2.0**-15 * (1 + sign * offset)]
    matrix = columns_of_lengths(lengths)
    exact = sum(Fraction(each) > 256 * Fraction(EPS) for each in map(float, lengths))
    found = spectrum(matrix, "auto")
    assert measure(found, matrix.shape, ["numerical_rank"], 0.99).values == {"numerical_rank": exact}
    delta = 280 * UNIT * 3 / 2.0**-30
    if offset > delta:
        assert found.route == "gram"
    if offset < delta / 8:
        assert found.route == "svd"
        assert found.error <= 256 * 2.3e-16  # of the SVD in float64
    assert found.values.dtype == np.float64 and found.precision == EPS


def test_graded_matrices_near_the_threshold_against_exact_arithmetic():
    """Rotated, rounded to float32, a thousandth off the threshold: the exact rank, which SVD in float32 misses."""
    shape, missed = (48, 5), 0
    for seed in range(12):
        values = [1.0, 0.5, 0.1, 1e-3, shape[0] * EPS * (1 + 5e-4 * (-1) ** seed)]
        matrix = planted(values, *shape, seed=seed).astype(np.float32)
        with mpmath.workdps(40):
            rows = mpmath.matrix(matrix.astype(float).tolist())
            squares = mpmath.eigsy(rows.T * rows, eigvals_only=True)
            exact = sum(x > (shape[0] * EPS) ** 2 * max(squares) for x in squares)
        for matrix_or_turned in (matrix, np.ascontiguousarray(matrix.T)):
            found = spectrum(matrix_or_turned)
            assert measure(found, shape, ["numerical_rank"], 0.99).values["numerical_rank"] == exact
        single = spectrum(matrix, "svd").values
        missed += np.count_nonzero(single > shape[0] * EPS * single[0]) != exact
    assert missed >= 1  # else these would be no hard cases


def test_a_tall_matrix_near_the_threshold_in_a_file(tmp_path):
    """Read by rows, it turns out to need the whole; turned, the whole is in memory already."""
    matrix = columns_of_lengths([1.0, 1.0, 1.0, 2.0**-15 * (1 + 2.0**-22)])
    save_file(
        {"close": matrix, "turned": np.ascontiguousarray(matrix.T), "far": matrix[:, :3].copy()},
        tmp_path / "m.safetensors",
    )
    found = {layer.name: layer for layer in scan_checkpoint(tmp_path / "m.safetensors")}
    assert {name: layer.route for name, layer in found.items()} == {"close": "svd", "turned": "svd", "far": "gram"}
    assert found["close"]["numerical_rank"] == found["turned"]["numerical_rank"] == 4
    assert {layer.route for layer in scan_checkpoint(tmp_path / "m.safetensors", method="gram")} == {"gram"}


@pytest.mark.parametrize("rows", [600, 2048, 2500])
def test_blocks_of_rows_and_memory_have_the_same_bits(tmp_path, rows):
    """A file read by rows, the same matrix in memory, and as one of the parts of a tensor."""
    matrix = np.random.default_rng(rows).normal(size=(rows, 130)).astype(np.float32)
    save_file({"w": matrix, "experts": np.stack([matrix, matrix])}, tmp_path / "m.safetensors")
    length = block_length(130)
    # As a scan does: with one thread of BLAS, whose sums depend on their number.
    with threadpool_limits(1):
        plain = spectrum(matrix)
        streamed = spectrum_of_rows((matrix[i : i + length] for i in range(0, rows, length)), matrix.shape, "auto")
    found = scan_checkpoint(tmp_path / "m.safetensors")
    assert [layer.name for layer in found] == ["experts[expert 0]", "experts[expert 1]", "w"]
    for layer in (plain, streamed):
        assert layer.route == "gram"
    assert np.array_equal(plain.values, streamed.values) and plain.error == streamed.error
    for layer in found:
        assert np.array_equal(layer.singular_values, plain.values) and layer.error == plain.error


def test_threads_change_no_bit_of_either_route(tmp_path):
    generator = np.random.default_rng(4)
    arrays = {f"tall{i}": generator.normal(size=(900 - 100 * i, 40)).astype(np.float32) for i in range(4)}
    arrays |= {f"wide{i}": generator.normal(size=(30, 200 + i)).astype(np.float16) for i in range(4)}
    arrays |= {"double": generator.normal(size=(50, 40)), "close": columns_of_lengths([1, 1, 1, 2.0**-15])}
    save_file(arrays, tmp_path / "m.safetensors")
    one, three = (scan_checkpoint(tmp_path / "m.safetensors", measures="all", threads=number) for number in (1, 3))
    assert {layer.route for layer in one} == {"svd", "gram"}
    assert [layer.to_dict(spectrum=True) for layer in one] == [layer.to_dict(spectrum=True) for layer in three]


def test_not_finite_is_seen_without_looking_at_every_entry(tmp_path):
    """One entry among many, in the last block; float32's largest numbers are no reason to refuse."""
    tall = np.full((2500, 130), 3e38, dtype=np.float32)
    assert gram_in_memory(tall)[0] is not None and spectrum(tall).values[0] == pytest.approx(3e38 * np.sqrt(2500 * 130))
    for value in (np.nan, np.inf, -np.inf):
        bad = tall.copy()
        bad[-1, -1] = value
        assert gram_of_rows([bad[:2016], bad[2016:]], *bad.shape) is None
        for matrix in (bad, bad.T, bad.astype(np.float64)):
            for method in ("auto", "svd", "gram"):
                assert spectrum(np.ascontiguousarray(matrix), method) is None
        save_file({"bad": bad, "turned": np.ascontiguousarray(bad.T), "good": tall[:50]}, tmp_path / "m.safetensors")
        problems = [layer.problem for layer in scan_checkpoint(tmp_path / "m.safetensors")]
        assert problems.count("1 of 325,000 entries are NaN or infinite") == 2 and problems.count("") == 1


def test_measures_of_float32_are_those_of_its_svd_in_float64(tmp_path):
    """What WeightWatcher computes too: every σ of the stored numbers in float64 by SciPy, then ‖W‖_F²/σ₁²."""
    arrays = {
        "tall": np.random.default_rng(0).normal(size=(700, 48)).astype(np.float32),
        "wide": (planted(np.geomspace(1, 1e-3, 32), 32, 90)).astype(np.float32),
        "low": planted([3.0, 2.0, 1.0], 60, 40).astype(np.float32),
    }
    save_file(arrays, tmp_path / "m.safetensors")
    for layer in scan_checkpoint(tmp_path / "m.safetensors", measures=["stable", "effective", "participation_ratio"]):
        exact = np.linalg.svd(arrays[layer.name].astype(np.float64), compute_uv=False)
        # λ off by δ, Σλ by δ: their ratio by (sr + 1)·δ/σ₁², and half of the digits are far from lost.
        room = 2 * (exact @ exact / exact[0] ** 2 + 1) * layer.error**2 / exact[0] ** 2
        assert layer["stable_rank"] == pytest.approx(float(rf.ranks.stable_rank(exact)), abs=room, rel=1e-14)
        assert room < 1e-9
        assert layer["participation_ratio"] == pytest.approx(float(rf.ranks.participation_ratio(exact)), rel=1e-9)
        # Of "low", 37 values of rounding, each at most √δ of the trace's order: entropy of a few 1e-8·log 1e8 each.
        assert layer["effective_rank"] == pytest.approx(float(rf.ranks.effective_rank(exact)), rel=1e-5)
