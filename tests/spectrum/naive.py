"""Every functional straight from its definition: slow, in NumPy, by another route than the package.

Spectra come from singular values of the rows, determinants from LU, cosines from all pairs.
"""

import math

import numpy as np

from tests.spectrum.matrices import EPS, as_numpy


def prepare(rows, *, center=False, normalize=False):
    x = as_numpy(rows).copy()
    if normalize:
        length = np.sqrt((x**2).sum(1))
        x[length > 0] /= length[length > 0, None]
    return x - x.mean(0) if center else x


def eigenvalues(rows, *, center=False, normalize=False):
    """(m,) eigenvalues of C, descending; those that are zero but for rounding are set to zero."""
    x = prepare(rows, center=center, normalize=normalize)
    s = np.zeros(x.shape[1])
    s[: min(x.shape)] = np.linalg.svd(x, compute_uv=False)
    s[s <= max(x.shape) * EPS * s[0]] = 0  # the rule of numpy.linalg.matrix_rank
    return s**2 / len(x)


def of_spectrum(values, ridge):
    """The functionals of m eigenvalues of C, zeros included, in any order."""
    values = np.sort(np.asarray(values, dtype=float))[::-1]
    m = len(values)
    positive = values[values > 0]
    p = positive / positive.sum()
    s = np.sqrt(positive) / np.sqrt(positive).sum()
    log_det = sum(math.log(value + ridge) for value in values)
    return {
        "log_det": log_det,
        "log_det_per_dim": log_det / m,
        "coding_rate": sum(math.log(1 + value / ridge) for value in values) / 2,
        "effective_rank": math.exp(-sum(share * math.log(share) for share in s)),
        "spectral_entropy": -sum(share * math.log(share) for share in p),
        "participation_ratio": values.sum() ** 2 / (values**2).sum(),
        "stable_rank": values.sum() / values[0],
        "condition_number": values[0] / positive[-1],
        "lambda_max": values[0],
        "lambda_min": values[-1],
        "trace": values.sum(),
        "decay_exponent": decay_exponent(positive),
    }


def renyi_rank(values, q):
    positive = np.asarray(values)[np.asarray(values) > 0]
    p = positive / positive.sum()
    if q == 1:
        return math.exp(-(p * np.log(p)).sum())
    if q == math.inf:
        return 1 / p.max()
    return (p**q).sum() ** (1 / (1 - q))


def decay_exponent(positive):
    """Minus the regression slope of log λ on log i over the middle of the spectrum."""
    r = len(positive)
    if r < 2:
        return math.inf
    first, last = (math.ceil(0.1 * r), math.ceil(0.5 * r)) if r >= 10 else (1, r)
    x = np.log(np.arange(first, last + 1))
    y = np.log(positive[first - 1 : last])
    return -((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()


def mean_cosine(rows):
    unit = [row / math.sqrt((row**2).sum()) for row in as_numpy(rows) if row.any()]
    pairs = [a @ b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    return sum(pairs) / len(pairs) if pairs else 1.0


def ridge_of(rows, *, center=False, normalize=False, ridge=None, relative_ridge=None):
    if ridge is not None:
        return ridge
    x = prepare(rows, center=center, normalize=normalize)
    return relative_ridge * (x**2).sum() / len(x) / x.shape[1]


def log_det(rows, *, center=False, normalize=False, ridge):
    x = prepare(rows, center=center, normalize=normalize)
    return np.linalg.slogdet(x.T @ x / len(x) + ridge * np.eye(x.shape[1]))[1]


def summary(rows, *, center=False, normalize=False, ridge):
    conventions = {"center": center, "normalize": normalize}
    result = of_spectrum(eigenvalues(rows, **conventions), ridge)
    result["log_det"] = log_det(rows, **conventions, ridge=ridge)
    result["log_det_per_dim"] = result["log_det"] / rows.shape[1]
    result["mean_cosine"] = mean_cosine(rows)
    return result


def deletions(rows, groups=None):
    """The rows without each example in turn."""
    rows = as_numpy(rows)
    groups = np.arange(len(rows)) if groups is None else as_numpy(groups)
    return [rows[groups != label] for label in np.unique(groups)]


def leave_one_out(rows, groups=None, *, ridge=None, relative_ridge=None, **conventions):
    """Values recomputed without each example in turn, and the directions then left."""
    result = {"log_det": [], "log_ridge": [], "log_effective_rank": [], "directions": []}
    for rest in deletions(rows, groups):
        epsilon = ridge_of(rest, ridge=ridge, relative_ridge=relative_ridge, **conventions)
        values = eigenvalues(rest, **conventions)
        s = np.sqrt(values[values > 0])
        s /= s.sum()
        result["log_det"].append(log_det(rest, ridge=epsilon, **conventions))
        result["log_ridge"].append(math.log(epsilon))
        result["log_effective_rank"].append(-(s * np.log(s)).sum())
        result["directions"].append(len(s))
    return {name: np.array(values) for name, values in result.items()}


def isoscore(rows):
    """IsoScore, step by step as published (Rudman et al. 2022, algorithm 1)."""
    x = as_numpy(rows)
    m = x.shape[1]
    directions = np.linalg.eigh(np.cov(x, rowvar=False))[1]
    variances = np.diag(np.cov(x @ directions, rowvar=False))  # after reorienting along them
    normalised = math.sqrt(m) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - np.ones(m)) / math.sqrt(2 * (m - math.sqrt(m)))
    used = (m - defect**2 * (m - math.sqrt(m))) ** 2 / m**2  # fraction of dimensions used
    return (m * used - 1) / (m - 1)
