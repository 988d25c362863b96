"""Weights that are trained: one noise per component."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from stabjax.loss_transforms._transformed import (
    Call,
    TransformedLoss,
    WithTransform,
    rebuild,
    required_names,
    run_inner,
)
from stabjax.losses import soft_clamp
from stabjax.losses._weigh import check_names
from stabjax.numerics._check import check_range
from stabjax.types import Aux, Loss, Scalar

_NAME = "uncertainty"


def uncertainty_weighting(
    loss_fn: Loss, *, likelihoods: Sequence[str] = (), limit: float = 10.0
) -> TransformedLoss:
    """Weight each component by a noise variance that is trained with the model.

    ``sum_i (c_i exp(-s_i) weighted_i + s_i / 2)`` with ``s = limit tanh(p / limit)``,
    the log variance, and ``c_i`` = 1/2 for a squared or absolute error and 1 for a
    negative log-likelihood such as cross-entropy. The weight of a component then tends
    to one over its own size. The bound keeps it finite where a component reaches zero,
    for which the paper's weight grows without end.

    The trained ``p`` are parameters, float32, zero at the start: train
    ``loss_fn.init_params(params)``, a `WithTransform` of the model's parameters and a
    dict of one scalar per component. Keep weight decay off them.

    Args:
        loss_fn: A loss whose components are known: from `weigh`, `combine` or
            `name_components`. They should be positive.
        likelihoods: The components with ``c_i`` = 1.
        limit: Bound on the log variance, in (0, 40].

    Returns:
        A loss that has the further component ``uncertainty``, ``sum_i s_i / 2``, and
        the metrics ``log_variance/<name>``.

    Raises:
        ValueError: If an option is out of range or names no component, the components
            are not known, or, when called, if the parameters are other ones.

    Gradient:
        ``c_i exp(-s_i) grad weighted_i`` for the model, and
        ``(1/2 - c_i exp(-s_i) weighted_i) / cosh(p_i / limit)**2`` for ``p_i``.

    Source:
        Kendall, Gal & Cipolla (2018), arXiv:1705.07115, eqs. 7 and 10.

    Example:
        >>> import jax
        >>> from stabjax.losses import combine
        >>> loss_fn = uncertainty_weighting(combine({"fit": lambda p, b, k: p * p}))
        >>> params = loss_fn.init_params(jnp.float32(2.0))
        >>> grad_fn = jax.grad(loss_fn, has_aux=True)
        >>> gradient, _ = grad_fn(params, None, jax.random.key(0))
        >>> float(gradient.model), float(gradient.transform["fit"])
        (2.0, -1.5)
    """
    origin = "uncertainty_weighting"
    check_range(origin, "limit", limit, high=40.0)
    names = required_names(origin, loss_fn)
    check_names(origin, "likelihoods", likelihoods, names)
    if _NAME in names:
        raise ValueError(f"{origin}: no component of the loss must be {_NAME!r}.")

    def wrap_params(params: Any) -> WithTransform:
        return WithTransform(params, {n: jnp.zeros((), jnp.float32) for n in names})

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        if not isinstance(call.params, WithTransform):
            raise ValueError(
                f"{origin}: params must be those of init_params, "
                f"got {type(call.params).__name__}."
            )
        model, trained = call.params
        weighted, aux = run_inner(origin, loss_fn, call._replace(params=model))
        metrics, spent = {}, []
        for name in names:
            log_variance = soft_clamp(trained[name], scale=limit)
            factor = 1.0 if name in likelihoods else 0.5
            weighted[name] = factor * jnp.exp(-log_variance) * weighted[name]
            metrics[f"log_variance/{name}"] = log_variance
            spent.append(log_variance / 2)
        weighted[_NAME] = sum(spent[1:], start=spent[0])
        metrics[f"raw/{_NAME}"] = weighted[_NAME]
        return rebuild(origin, weighted, aux, metrics)

    return TransformedLoss(loss_fn, evaluate, (*names, _NAME), wrap_params=wrap_params)
