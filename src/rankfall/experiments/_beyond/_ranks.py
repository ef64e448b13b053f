"""Ranks of weights, features and Jacobian, of all seeds at one moment, ready for `follow`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.func import jacrev, vmap

from rankfall import ranks
from rankfall.experiments._beyond._vectorised import Parameters, one_seed

__all__ = [
    "ALIVE",
    "DEFINITIONS",
    "JACOBIAN_THRESHOLD",
    "feature_ranks",
    "jacobian_gram",
    "jacobian_ranks",
    "weight_ranks",
]

# A singular value is alive while it is above this share of the largest one at that moment.
ALIVE = 1e-2
# What counts for the rank of the Jacobian in the code that accompanies Andriushchenko et al. 2023.
JACOBIAN_THRESHOLD = 1e-4

# For the attributes of a dataset.
DEFINITIONS = {
    "effective_rank": "exp of the entropy of the singular values divided by their sum (Roy & Vetterli 2007)",
    "stable_rank": "sum of the squared singular values over the largest square (Rudelson & Vershynin 2007)",
    "alive": f"number of singular values above {ALIVE:g} of the largest one at that moment",
    "features": "outputs of a layer on the probe samples, centred: minus their mean over the samples",
    "jacobian": "outputs on the probe samples, differentiated with respect to all trained parameters: one row for each "
    "sample and output (Andriushchenko, Varre, Pillaud-Vivien & Flammarion, ICML 2023, arXiv 2210.05337)",
    "rank_jacobian": f"number of its singular values above {JACOBIAN_THRESHOLD:g} of the largest one, as in the code "
    "of that paper",
}

# Outputs of shape (samples,) or (samples, outputs) from the parameters of one seed and the samples.
Outputs = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
_Measured = dict[str, tuple[tuple[str, ...], Any]]


def weight_ranks(matrices: Mapping[str, torch.Tensor]) -> _Measured:
    """Ranks of weight matrices.

    Args:
        matrices: By name, in the order of the coordinate "matrix"; each of shape (seed, m, n). Reshape the weights of a
            convolution to (seed, out, in·height·width) first; a matrix with one row or column says nothing.

    Returns:
        effective_rank_weights, stable_rank_weights, alive_weights; dimensions (seed, matrix).
    """
    spectra = [ranks.singular_values(matrix.detach()) for matrix in matrices.values()]
    dims = ("seed", "matrix")
    return {
        "effective_rank_weights": (dims, _stack(ranks.effective_rank, spectra)),
        "stable_rank_weights": (dims, _stack(ranks.stable_rank, spectra)),
        "alive_weights": (dims, _stack(_alive, spectra)),
    }


def feature_ranks(features: Mapping[str, torch.Tensor]) -> _Measured:
    """Ranks of the features of layers on the probe samples, centred.

    Args:
        features: By name, in the order of the coordinate "layer"; each of shape (seed, sample, unit).

    Returns:
        effective_rank_features, alive_features; dimensions (seed, layer).
    """
    spectra = [
        ranks.singular_values(values.detach() - values.detach().mean(dim=1, keepdim=True))
        for values in features.values()
    ]
    dims = ("seed", "layer")
    return {
        "effective_rank_features": (dims, _stack(ranks.effective_rank, spectra)),
        "alive_features": (dims, _stack(_alive, spectra)),
    }


def jacobian_ranks(
    function: Outputs, parameters: Parameters, probe: torch.Tensor | Sequence[torch.Tensor]
) -> _Measured:
    """Ranks of the Jacobian of the outputs on the probe samples with respect to the parameters.

    With J of shape (samples·outputs, all parameters) its singular values are the square roots of the eigenvalues of
    J Jᵀ, which is summed in float64: a share of 1e-4 of the largest is far above what its rounding leaves (1e-8).

    Args:
        function: Each sample's outputs must depend on that sample alone.
        parameters: Stacked; those that are differentiated.
        probe: Samples, sample first, the same for all seeds; or a list of such, one for each seed.

    Returns:
        effective_rank_jacobian, alive_jacobian, rank_jacobian; dimension (seed,).
    """
    count = len(next(iter(parameters.values())))
    probes = [probe] * count if isinstance(probe, torch.Tensor) else list(probe)
    spectra = torch.stack(
        [
            _roots(jacobian_gram(function, one_seed(parameters, i), samples))
            for i, samples in zip(range(count), probes, strict=True)
        ]
    )
    dims = ("seed",)
    return {
        "effective_rank_jacobian": (dims, ranks.effective_rank(spectra)),
        "alive_jacobian": (dims, _alive(spectra)),
        "rank_jacobian": (dims, ranks.numerical_rank(spectra, rtol=JACOBIAN_THRESHOLD)),
    }


def jacobian_gram(function: Outputs, parameters: Mapping[str, torch.Tensor], samples: torch.Tensor) -> torch.Tensor:
    """J Jᵀ of one seed in float64, shape (rows, rows) with one row for every sample and output."""

    def outputs(given: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return function(given, sample[None])[0]

    pieces = vmap(jacrev(outputs), in_dims=(None, 0))(dict(parameters), samples)
    gram = torch.zeros((), dtype=torch.float64)
    for name, piece in pieces.items():
        rows = piece.detach().reshape(piece.numel() // parameters[name].numel(), -1).double()
        gram = gram + rows @ rows.mT
    return gram


def _roots(gram: torch.Tensor) -> torch.Tensor:
    """Singular values of J from J Jᵀ, descending; NaN throughout if anything is not finite."""
    if not torch.isfinite(gram).all():  # LAPACK would raise
        return torch.full_like(gram[0], torch.nan)
    return torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt().flip(0)


def _alive(spectra: torch.Tensor) -> torch.Tensor:
    return ranks.numerical_rank(spectra, rtol=ALIVE)


def _stack(measure: Callable[[torch.Tensor], torch.Tensor], spectra: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([measure(each) for each in spectra], dim=-1)
