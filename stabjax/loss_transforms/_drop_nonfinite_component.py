"""Train on what is finite of a loss, and count what is not."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from stabjax.core.sums import SMALL_UNIT, sums_of_squares
from stabjax.loss_transforms._backward import Pulls, Weighted, run_with_backward
from stabjax.loss_transforms._transformed import (
    Call,
    Parts,
    TransformedLoss,
    names_of,
    rebuild,
)
from stabjax.losses._weigh import merge_aux
from stabjax.types import Aux, Flag, Loss, Params, Scalar


def drop_nonfinite_component(
    loss_fn: Loss, *, check_gradient: bool = False
) -> TransformedLoss:
    """Leave a component that is not finite out of the loss and of its gradient.

    ``sum_(i finite) weighted_i``. A component counts as finite if its raw and its
    weighted value are. If none is, nothing is dropped and the step is refused.

    The gradient of a dropped component is selected away, not multiplied by zero.
    Where all are finite the backward pass is the ordinary one; else there is one for
    each component. Apply it before (inside of) `pcgrad`, `grad_norm` and the
    measurements, which would meet the gradient that is not finite.

    Args:
        loss_fn: A loss whose components ``weighted/<name>`` add up to it.
        check_gradient: Drop also a component that is finite but whose gradient is
            not, such as a plain norm at zero. Costs one more backward pass per
            component in every step; without it such a step is refused.

    Returns:
        A loss that reports ``raw/`` and ``weighted/`` of a dropped component as 0,
        which passes the finite contract, and the metrics ``dropped/<name>``, 1 in a
        step without it, and ``as_computed/<name>``, its raw value, NaN or not.

    Gradient:
        ``sum_(i finite) grad weighted_i``.

    Source:
        Own.

    Example:
        >>> from stabjax.losses import combine
        >>> parts = {"fit": lambda p, b, k: p**2, "log": lambda p, b, k: jnp.log(p)}
        >>> loss_fn = drop_nonfinite_component(combine(parts))
        >>> grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        >>> (loss, aux), gradient = grad_fn(jnp.float32(-1.0), None, jax.random.key(0))
        >>> float(loss), float(gradient), float(aux["dropped/log"])
        (1.0, -2.0, 1.0)
    """
    origin = "drop_nonfinite_component"

    def forward(parts: Parts, pulls: Pulls) -> tuple[Weighted, Any, Any]:
        weighted, aux = parts
        fine = {
            name: jnp.isfinite(value) & jnp.isfinite(aux.get(f"raw/{name}", 0.0))
            for name, value in weighted.items()
        }
        if check_gradient:
            fine = {name: fine[name] & _is_finite(pulls.one(name)) for name in fine}
        # With nothing left there is nothing to train on: let the contract refuse it.
        nothing_left = ~functools.reduce(jnp.logical_or, fine.values())
        kept = {name: flag | nothing_left for name, flag in fine.items()}
        weighted = {n: jnp.where(kept[n], weighted[n], 0.0) for n in weighted}
        return weighted, _report(origin, aux, kept, nothing_left), kept

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        weighted, aux = run_with_backward(
            origin, loss_fn, call, forward=forward, backward=_backward
        )
        return rebuild(origin, weighted, aux)

    return TransformedLoss(loss_fn, evaluate, names_of(loss_fn))


def _report(
    origin: str, aux: dict[str, Any], kept: dict[str, Flag], nothing_left: Flag
) -> dict[str, Any]:
    """Return the aux with dropped raw values at zero, and what became of each."""
    report, metrics = dict(aux), {}
    for key, value in aux.items():
        # Entries of nested totals too: their component is dropped with them.
        if key.startswith(("raw/", "weighted/")):
            name = key.removeprefix("raw/")
            keep = kept.get(name, jnp.isfinite(value)) | nothing_left
            report[key] = jnp.where(keep, value, 0.0)
            metrics[f"as_computed/{name}"] = value
    for name, keep in kept.items():
        metrics[f"dropped/{name}"] = (~keep).astype(jnp.float32)
    return merge_aux(origin, report, metrics)


def _is_finite(gradient: Params) -> Flag:
    # Finite for every finite gradient, see `stabjax.core.sums`.
    return jnp.all(jnp.isfinite(sums_of_squares(gradient, SMALL_UNIT)))


def _backward(kept: dict[str, Flag], pulls: Pulls, cotangents: Weighted) -> Params:
    """Leave out the gradient of what was dropped; one pass if nothing was."""

    def one_by_one() -> Params:
        parts = []
        for name, cotangent in cotangents.items():
            keep = kept[name]
            gradient = pulls.one(name, cotangent)
            parts.append(jax.tree.map(lambda g, k=keep: jnp.where(k, g, 0), gradient))
        return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves), *parts)

    asked = [kept[name] for name in cotangents]
    everything = functools.reduce(jnp.logical_and, asked)
    return jax.lax.cond(everything, lambda: pulls.all(cotangents), one_by_one)
