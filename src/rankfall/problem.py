"""What is learned: data, or the sufficient statistics of the squared loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from rankfall import _checks, _losses
from rankfall._losses import Loss
from rankfall.errors import InvalidInput

__all__ = ["Loss", "Problem"]

# Stream tag that keeps the draws of a problem apart from those of a network made with the same seed.
_PROBLEM_STREAM = 0x70726F62


@dataclass(frozen=True, eq=False)
class Problem:
    r"""A regression or classification problem, by its data or by the statistics that the squared loss depends on.

    With inputs X (n×p) and labels Y (n×k) the squared loss of the product W = W1 W2 is
    L(W) = ‖X W − Y‖²_F / (2n), which depends on the data only through Σ = XᵀX/n, C = XᵀY/n and tr(YᵀY)/n.
    "logistic" and "cross_entropy" need the data themselves; with scores S = XW they are, per sample,
    Σ_j log(1 + e^{s_j}) − y_j s_j and log Σ_j e^{s_j} − Σ_j y_j s_j.
    Make one with `Problem.gaussian`, `Problem.classification`, `Problem.from_data` or `Problem.from_statistics`.

    Attributes:
        covariance: Σ, shape (n_inputs, n_inputs). Second moment of the inputs, not centred.
        cross_covariance: C, shape (n_inputs, n_outputs).
        label_second_moment: tr(YᵀY)/n, the loss of the zero network doubled; None when unknown.
        n_samples: n, or None when unknown.
        inputs: X, shape (n_samples, n_inputs), or None for a problem made from statistics.
        labels: Y, shape (n_samples, n_outputs), or None for a problem made from statistics.
        loss: "squared", "logistic" or "cross_entropy"; all but the squared loss need the data.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)
        >>> problem.covariance.shape, problem.cross_covariance.shape
        ((5, 5), (5, 2))
    """

    covariance: np.ndarray
    cross_covariance: np.ndarray
    label_second_moment: float | None = None
    n_samples: int | None = None
    inputs: np.ndarray | None = None
    labels: np.ndarray | None = None
    loss: Loss = "squared"
    # Of the data that a reopened run was made from and does not hold.
    _minimum_loss: float | None = None

    @classmethod
    def gaussian(
        cls,
        n_samples: int,
        n_inputs: int,
        n_outputs: int,
        *,
        seed: int,
        rank: int | None = None,
        noise: float = 0.0,
    ) -> Problem:
        r"""Draw standard normal inputs and labels Y = X β + noise from a random teacher β.

        β (n_inputs×n_outputs) has N(0, 1) entries; with `rank` it is A B / √rank with A, B of N(0, 1) entries, so
        that its entries keep unit variance.

        Args:
            n_samples: n ≥ 1.
            n_inputs: p ≥ 1.
            n_outputs: k ≥ 1.
            seed: Whole number in [0, 2^64); the same seed gives the same problem.
            rank: Rank of the teacher, from 0 (β = 0) to min(n_inputs, n_outputs); full when None.
            noise: Variance of the Gaussian noise that the labels carry once and for all (not the fresh label noise
                of a method).

        Raises:
            InvalidInput: A size, the rank, the noise or the seed is out of range.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> problem = rf.Problem.gaussian(n_samples=200, n_inputs=6, n_outputs=4, seed=3, rank=2)
            >>> int(np.linalg.matrix_rank(problem.solution))
            2
        """
        n = _checks.whole_number(n_samples, "n_samples")
        p = _checks.whole_number(n_inputs, "n_inputs")
        k = _checks.whole_number(n_outputs, "n_outputs")
        variance = _checks.real_number(noise, "noise", at_least=0.0)
        rng = np.random.default_rng([_checks.seed_number(seed), _PROBLEM_STREAM])
        inputs = rng.standard_normal((n, p))
        if rank is None:
            teacher = rng.standard_normal((p, k))
        else:
            r = _checks.whole_number(rank, "rank", at_least=0, at_most=min(p, k))
            left, right = rng.standard_normal((p, r)), rng.standard_normal((r, k))
            teacher = left @ right / np.sqrt(max(r, 1))
        labels = inputs @ teacher
        if variance > 0.0:
            labels = labels + np.sqrt(variance) * rng.standard_normal((n, k))
        return cls.from_data(inputs, labels)

    @classmethod
    def classification(
        cls,
        n_samples: int,
        n_inputs: int,
        n_classes: int,
        *,
        seed: int,
        rank: int | None = None,
        temperature: float = 0.0,
    ) -> Problem:
        r"""Draw standard normal inputs and one-hot classes from a random linear teacher; the loss is the cross-entropy.

        The scores of a sample are S = xᵀβ with β as in `Problem.gaussian`. Its class is the one of the largest score
        (then some network classifies all samples correctly), or drawn from softmax(S / temperature).

        Args:
            n_samples: n ≥ 1.
            n_inputs: p ≥ 1.
            n_classes: k ≥ 2; a class that no sample falls into has a column of zeros.
            seed: Whole number in [0, 2^64); the same seed gives the same problem.
            rank: Rank of β, from 1 to min(n_inputs, n_classes); full when None.
            temperature: 0 for the largest score, above for classes drawn at random, once and for all.

        Raises:
            InvalidInput: A size, the rank, the temperature or the seed is out of range.

        Example:
            >>> import rankfall as rf
            >>> problem = rf.Problem.classification(n_samples=100, n_inputs=4, n_classes=3, seed=0)
            >>> problem.labels.shape, problem.accuracy(problem.inputs.T @ problem.labels) > 0.8
            ((100, 3), True)
        """
        k = _checks.whole_number(n_classes, "n_classes", at_least=2)
        kelvin = _checks.real_number(temperature, "temperature", at_least=0.0)
        if rank is not None:
            rank = _checks.whole_number(rank, "rank", at_most=min(_checks.whole_number(n_inputs, "n_inputs"), k))
        teacher = cls.gaussian(n_samples, n_inputs, k, seed=seed, rank=rank)
        assert teacher.inputs is not None and teacher.labels is not None
        scores = teacher.labels
        if kelvin > 0.0:  # the largest of the scores with Gumbel noise has the law of the softmax
            rng = np.random.default_rng([_checks.seed_number(seed), _PROBLEM_STREAM, 1])
            scores = scores + kelvin * rng.gumbel(size=scores.shape)
        labels = np.zeros(scores.shape)
        labels[np.arange(len(scores)), scores.argmax(axis=1)] = 1.0
        return cls.from_data(teacher.inputs, labels, loss="cross_entropy")

    @classmethod
    def from_data(cls, inputs: Any, labels: Any, *, loss: Loss = "squared") -> Problem:
        """Take inputs (n×p) and labels (n×k, or n values) as they are: nothing is centred or scaled.

        Args:
            inputs: X, numbers.
            labels: For "squared", numbers. For "logistic", 0 or 1, or anything between: k outputs, each on its own. For
                "cross_entropy", one column per class (one-hot, or class probabilities), or one column of class numbers
                or names, which become one-hot in the sorted order of the classes.
            loss: "squared", "logistic" or "cross_entropy".

        Raises:
            InvalidInput: Not numeric, not finite, empty, of different numbers of rows, or not labels of this loss.

        Example:
            >>> import rankfall as rf
            >>> rf.Problem.from_data([[1.0, 0.0], [0.0, 2.0]], [3.0, 4.0]).cross_covariance
            array([[1.5],
                   [4. ]])
            >>> rf.Problem.from_data([[1.0], [2.0], [3.0]], ["ox", "ape", "ox"], loss="cross_entropy").labels
            array([[0., 1.],
                   [1., 0.],
                   [0., 1.]])
        """
        if loss not in get_args(Loss):
            raise InvalidInput(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}.")
        x = _checks.finite_matrix(inputs, "inputs", columns_ok=True)
        y = _losses.checked_labels(labels, loss)
        if len(x) != len(y):
            raise InvalidInput(
                f"inputs and labels must have one row per sample, got {len(x)} and {len(y)} rows "
                f"(shapes {x.shape} and {y.shape})."
            )
        n = len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            covariance, cross = x.T @ x / n, x.T @ y / n
            second_moment = float(np.sum(y * y) / n)
        if not (np.isfinite(covariance).all() and np.isfinite(cross).all() and np.isfinite(second_moment)):
            raise InvalidInput("the data overflow float64 when squared; rescale inputs and labels first.")
        return cls(_frozen(covariance), _frozen(cross), second_moment, n, x, y, loss)

    @classmethod
    def from_statistics(
        cls,
        covariance: Any,
        cross_covariance: Any,
        n_samples: int | None = None,
        label_second_moment: float | None = None,
    ) -> Problem:
        """Take Σ = XᵀX/n (p×p) and C = XᵀY/n (p×k) without the data.

        Mini-batches cannot be drawn from such a problem. Without `label_second_moment` = tr(YᵀY)/n the loss is
        reported above its minimum.

        Raises:
            InvalidInput: Σ is not symmetric positive semi-definite, C does not match it, or C leaves the range of Σ
                (then no labels exist that give it, and the loss has no minimum).

        Example:
            >>> import numpy as np, rankfall as rf
            >>> rf.Problem.from_statistics(np.eye(3), np.ones((3, 1)), n_samples=100).n_outputs
            1
        """
        sigma = _checks.finite_matrix(covariance, "covariance")
        cross = _checks.finite_matrix(cross_covariance, "cross_covariance", columns_ok=True)
        if sigma.shape[0] != sigma.shape[1]:
            raise InvalidInput(f"covariance must be square, got shape {sigma.shape}.")
        if cross.shape[0] != sigma.shape[0]:
            raise InvalidInput(
                f"cross_covariance must have one row per input: covariance is {sigma.shape}, "
                f"cross_covariance is {cross.shape}."
            )
        scale = np.abs(sigma).max()
        if np.abs(sigma - sigma.T).max() > 1e-10 * scale:
            raise InvalidInput(
                f"covariance must be symmetric; the largest difference from its transpose is "
                f"{np.abs(sigma - sigma.T).max():.3g}."
            )
        lowest = float(np.linalg.eigvalsh(sigma)[0])
        if lowest < -1e-10 * scale:
            raise InvalidInput(f"covariance must be positive semi-definite; its lowest eigenvalue is {lowest:.3g}.")
        n = None if n_samples is None else _checks.whole_number(n_samples, "n_samples")
        moment = (
            None
            if label_second_moment is None
            else _checks.real_number(label_second_moment, "label_second_moment", at_least=0.0)
        )
        problem = cls(_frozen((sigma + sigma.T) / 2), cross, moment, n)
        outside = np.abs(cross - problem.covariance @ problem.solution).max()
        if outside > 1e-8 * max(np.abs(cross).max(), 1e-300):
            raise InvalidInput(
                f"cross_covariance leaves the range of the covariance by {outside:.3g}: no data have these "
                "statistics. Project it onto the range, or use the full-rank covariance."
            )
        if moment is not None:
            explained = float(np.sum(cross * problem.solution))
            if explained > moment * (1 + 1e-8):
                raise InvalidInput(
                    f"label_second_moment must be at least tr(CᵀΣ⁻¹C) = {explained:.6g}, got {moment:.6g}: the "
                    "inputs cannot explain more than all of the labels."
                )
        return problem

    @property
    def n_inputs(self) -> int:
        """p, the number of inputs."""
        return self.cross_covariance.shape[0]

    @property
    def n_outputs(self) -> int:
        """k, the number of outputs."""
        return self.cross_covariance.shape[1]

    @property
    def has_data(self) -> bool:
        """Whether mini-batches can be drawn."""
        return self.inputs is not None and self.labels is not None

    def eigenbasis(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (d, U) with Σ = U diag(d) Uᵀ, d ascending, eigenvalues that are rounding noise set to exactly zero."""
        d, basis = np.linalg.eigh(self.covariance)
        floor = d[-1] * len(d) * np.finfo(float).eps
        return np.where(d > floor, d, 0.0), basis

    @property
    def solution(self) -> np.ndarray:
        """Σ⁺C, the minimiser of smallest norm of the squared loss over the product W1 W2, (n_inputs, n_outputs).

        Raises:
            InvalidInput: The loss is another one, whose minimiser has no closed form and may not exist.
        """
        if self.loss != "squared":
            raise InvalidInput(
                f"only the squared loss has a solution in closed form, this problem has loss={self.loss!r}."
            )
        d, basis = self.eigenbasis()
        inverse = np.divide(1.0, d, out=np.zeros_like(d), where=d > 0)
        return basis @ (inverse[:, None] * (basis.T @ self.cross_covariance))

    @property
    def minimum_loss(self) -> float:
        """The squared loss at the solution, ½(tr(YᵀY)/n − tr(CᵀΣ⁺C)); 0 when tr(YᵀY)/n is unknown.

        Of the other losses the infimum has no closed form; they are reported as they are, above 0.
        """
        if self.loss != "squared":
            return 0.0
        if self._minimum_loss is not None:
            return self._minimum_loss
        if self.label_second_moment is None:
            return 0.0
        if self.inputs is not None and self.labels is not None:  # free of cancellation
            residual = self.labels - self.inputs @ self.solution
            return float(np.sum(residual * residual) / (2 * len(residual)))
        return max(0.0, 0.5 * (self.label_second_moment - float(np.sum(self.cross_covariance * self.solution))))

    def evaluate(self, product: Any) -> float:
        """L(W) of a product W = W1 W2, shape (n_inputs, n_outputs).

        The squared loss is taken above its minimum if tr(YᵀY)/n is unknown.
        """
        w = self._checked_product(product)
        if self.loss != "squared":
            inputs, labels = self._data()
            return _losses.mean_loss(inputs @ w, labels, self.loss)
        gap = w - self.solution
        return 0.5 * float(np.sum(gap * (self.covariance @ gap))) + self.minimum_loss

    def gradient(self, product: Any) -> np.ndarray:
        """G = −∂L/∂W = Xᵀ(Y − link(XW))/n of a product W = W1 W2, shape (n_inputs, n_outputs).

        The link is the identity for the squared loss (G = C − ΣW), the logistic function entry by entry for
        "logistic" and the softmax of each row for "cross_entropy".

        Raises:
            InvalidInput: The product is not finite or has another shape.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> problem = rf.Problem.from_data([[2.0], [-2.0]], [1, 0], loss="logistic")
            >>> problem.gradient(np.zeros((1, 1)))
            array([[1.]])
        """
        w = self._checked_product(product)
        if self.loss == "squared":
            found: np.ndarray = self.cross_covariance - self.covariance @ w
            return found
        inputs, labels = self._data()
        return inputs.T @ (labels - _losses.link(inputs @ w, self.loss)) / len(inputs)

    def accuracy(self, product: Any) -> float:
        """Share of the samples that a product W = W1 W2 classifies correctly.

        Cross-entropy: the largest score is that of the largest label. Logistic: the share of outputs, over all
        samples, whose score is positive where the label is above ½ and not elsewhere.

        Raises:
            InvalidInput: The problem is no classification, or the product is unusable.
        """
        w = self._checked_product(product)
        if self.loss == "squared":
            raise InvalidInput("a squared loss has no accuracy; make the problem with loss='cross_entropy'.")
        inputs, labels = self._data()
        return _losses.accuracy(inputs @ w, labels, self.loss)

    def _checked_product(self, product: Any) -> np.ndarray:
        w = _checks.finite_matrix(product, "product")
        if w.shape != self.cross_covariance.shape:
            raise InvalidInput(f"product must have shape {self.cross_covariance.shape}, got {w.shape}.")
        return w

    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        if self.inputs is None or self.labels is None:
            raise InvalidInput(f"loss={self.loss!r} needs the data; make the problem with Problem.from_data.")
        return self.inputs, self.labels

    def __repr__(self) -> str:
        source = "data" if self.has_data else "statistics"
        loss = "" if self.loss == "squared" else f", loss={self.loss}"
        return (
            f"Problem(n_samples={self.n_samples}, n_inputs={self.n_inputs}, n_outputs={self.n_outputs}, "
            f"from {source}{loss})"
        )


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
