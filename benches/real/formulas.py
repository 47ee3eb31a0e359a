"""The merge methods once more, plainly and in f64, for one tensor of a base and its experts.

Each takes the base `b`, the experts `e` and their weights `w`; DARE is random, so `dare_ties` gives all it may be.
"""

from itertools import product

import torch


def linear(_, e, w):
    """Σ w θ / Σ w"""
    return sum(x * t for x, t in zip(w, e)) / sum(w)


def task_arithmetic(b, e, w):
    """θ₀ + Σ w τ"""
    return b + sum(x * (t - b) for x, t in zip(w, e))


def ties(b, e, w, density):
    """The largest magnitudes of each τ; the sign of the weighted sum; weighted mean of what has that sign."""
    return b + elected([x * trimmed(t - b, density) for x, t in zip(w, e)], w)


def dare_ties(b, e, w, density):
    """Every way of dropping an element of each τ or dividing it by the density; then signs as in `ties`, summed."""
    scaled = [x * (t - b) / density for x, t in zip(w, e)]
    masks = list(product((0.0, 1.0), repeat=len(e)))
    return masks, [b + elected([m * s for m, s in zip(mask, scaled)]) for mask in masks]


def trimmed(tau, density):
    """The `int(density · n)` largest; of equal magnitudes, those that come first."""
    flat = tau.flatten()
    order = torch.argsort(flat.abs(), descending=True, stable=True)
    kept = torch.zeros_like(flat)
    kept[order[: int(density * flat.numel())]] = 1.0
    return (flat * kept).view_as(tau)


def at_cutoff(tau, density):
    """Where a magnitude equals the smallest that is kept: which of these are kept is anyone's choice."""
    kept = int(density * tau.numel())
    return tau.abs() == tau.abs().flatten().sort(descending=True).values[kept - 1]


def elected(parts, weights=None):
    """The sum of those that agree with the sign of the sum, 0 counting as positive; over the sum of their weights."""
    sign = torch.where(sum(parts) >= 0, 1.0, -1.0).to(parts[0].dtype)
    agree = [(part.sign() == sign).to(part.dtype) for part in parts]
    total = sum(a * part for a, part in zip(agree, parts))
    if weights is None:
        return total
    share = sum(a * x for a, x in zip(agree, weights))
    return total / torch.where(share == 0, torch.ones_like(share), share)


def metagpt_weights(base, experts):
    """λ = ‖τ‖² / Σ ‖τ‖², over whole models."""
    norms = [sum(float((t[k] - base[k]).square().sum()) for k in base) for t in experts]
    return [n / sum(norms) for n in norms]
