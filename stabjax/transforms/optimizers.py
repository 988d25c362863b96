"""AdamW, SGD and Lion with guards folded in, for those who stay inside a chain.

Each equals its namesake in optax step for step, takes the same arguments and keeps the
same state as ``inner_state``. With guards it costs what the guarded train step costs,
where `guard` around the same optimizer costs about three times as much on CPU.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike, DTypeLike

from stabjax.core.apply import Form
from stabjax.guards.given import Guards
from stabjax.transforms._fold import Formula, fold
from stabjax.types import PyTree


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    nesterov: bool = False,
    guards: Guards = (),
    form: Form | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return `optax.adamw` with guards folded into its formula.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g**2`` and the update
    ``-lr (m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps) + decay * p)``, all three
    under one decision: a refused step changes no state and its update is zero.

    Moments stay finite because a gradient whose square could overflow is refused
    (norm above 2**62 after clipping); an element of the update that is not finite
    although they are is zero. Moments in float16 have no such range: for them this
    is `guard` around `optax.adamw`, at its cost. The norm of the update is not
    measured, so that guards on it have nothing to say here. With a guard that resets
    moments XLA on CPU keeps a copy of them until the update is formed.

    Args:
        learning_rate: As in `optax.adamw`, as all up to ``nesterov``; a step at which
            a schedule is not finite is refused.
        b1: Decay of the first moment, in [0, 1).
        b2: Decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment, > 0.
        eps_root: Added under the root, >= 0.
        mu_dtype: Dtype of the first moment; that of the parameters if None.
        weight_decay: Decoupled weight decay, or a schedule of it.
        mask: Which leaves decay: a tree of booleans, or a function that gives one.
        nesterov: Whether to look ahead with the gradient.
        guards: Guards in any order, one or several.
        form: See `stabjax.train_step.make_train_step`.

    Returns:
        A gradient transformation; its state is a `GuardState` around that of optax.

    Raises:
        TypeError: If a guard is not a `Guard`.
        ValueError: If a guard scales the loss; in `update`, if a guard reads the loss
            and no ``value`` is given.

    Source:
        Loshchilov & Hutter (2019), arXiv:1711.05101.

    Example:
        >>> from stabjax.guards import clip_by_global_norm
        >>> optimizer = adamw(1e-3, guards=[clip_by_global_norm()])
        >>> params = {"w": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> gradient = {"w": jnp.array([jnp.nan, 1.0])}
        >>> updates, state = optimizer.update(gradient, state, params)
        >>> print(updates["w"], state.inner_state[0].count, state.core.refused)
        [0. 0.] 0 1
    """

    def moments(
        gradients: PyTree, before: optax.ScaleByAdamState
    ) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=optax.safe_increment(before.count),
            mu=optax.tree.update_moment(gradients, before.mu, b1, 1),
            nu=optax.tree.update_moment_per_elem_norm(gradients, before.nu, b2, 2),
        )

    def direction(
        gradients: PyTree,
        before: optax.ScaleByAdamState,
        after: optax.ScaleByAdamState,
    ) -> PyTree:
        # Not the count that was kept: after a refused first step that is zero.
        count = optax.safe_increment(before.count)
        mu = optax.tree.bias_correction(
            after.mu, b1, optax.safe_increment(count) if nesterov else count
        )
        if nesterov:
            ahead = optax.tree.bias_correction(gradients, b1, count)
            mu = _map(lambda g, m: b1 * m + (1 - b1) * g, ahead, mu)
        nu = optax.tree.bias_correction(after.nu, b2, count)
        return _map(lambda m, v: m / (jnp.sqrt(v + eps_root) + eps), mu, nu)

    plain = optax.adamw(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        weight_decay,
        mask,
        nesterov=nesterov,
    )
    decay, rate = _decay_and_rate(weight_decay, mask, learning_rate)
    return fold(
        "adamw",
        plain,
        Formula(moments, direction),
        (decay, rate),
        (weight_decay, learning_rate),
        guards=guards,
        form=form,
    )


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    guards: Guards = (),
    form: Form | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return `optax.sgd` with guards folded into its formula.

    ``t = momentum t + g``, and the update ``-lr t``, with Nesterov's momentum
    ``-lr (g + momentum t)``, under one decision, as in `adamw`.

    Args:
        learning_rate: As in `optax.sgd`, as all up to ``accumulator_dtype``; a step
            at which a schedule is not finite is refused.
        momentum: Decay of the trace, in [0, 1); no trace if None.
        nesterov: Whether to look ahead with the gradient.
        accumulator_dtype: Dtype of the trace; that of the parameters if None.
        guards: Guards in any order, one or several.
        form: See `stabjax.train_step.make_train_step`.

    Returns:
        A gradient transformation; its state is a `GuardState` around that of optax.

    Raises:
        TypeError: If a guard is not a `Guard`.
        ValueError: As in `adamw`.

    Source:
        Sutskever et al. (2013), ICML, On the importance of initialization and
        momentum in deep learning.

    Example:
        >>> optimizer = sgd(0.5, momentum=0.9)
        >>> state = optimizer.init(jnp.ones(2))
        >>> updates, state = optimizer.update(jnp.ones(2), state)
        >>> print(updates)
        [-0.5 -0.5]
    """
    decay: Any = momentum

    def follow(gradients: PyTree, trace: PyTree) -> PyTree:
        return _map(lambda g, t: g + decay * t, gradients, trace)

    def moments(gradients: PyTree, before: Any) -> Any:
        if momentum is None:
            return before
        return optax.TraceState(trace=follow(gradients, before.trace))

    def direction(gradients: PyTree, before: Any, after: Any) -> PyTree:
        del before
        if momentum is None:
            return gradients
        return follow(gradients, after.trace) if nesterov else after.trace

    return fold(
        "sgd",
        optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype),
        Formula(moments, direction),
        (optax.scale_by_learning_rate(learning_rate),),
        (learning_rate,),
        guards=guards,
        form=form,
    )


def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    mu_dtype: DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    guards: Guards = (),
    form: Form | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return `optax.lion` with guards folded into its formula.

    The update ``-lr (sign(b1 m + (1 - b1) g) + decay * p)``, then
    ``m = b2 m + (1 - b2) g``, under one decision, as in `adamw`. The update is formed
    from the moment before, of which XLA keeps a copy on CPU, as it does for optax.

    Args:
        learning_rate: As in `optax.lion`, as all up to ``mask``; a step at which a
            schedule is not finite is refused.
        b1: Share of the moment in the direction, in [0, 1).
        b2: Decay of the moment, in [0, 1).
        mu_dtype: Dtype of the moment; that of the parameters if None.
        weight_decay: Decoupled weight decay, or a schedule of it.
        mask: Which leaves decay: a tree of booleans, or a function that gives one.
        guards: Guards in any order, one or several.
        form: See `stabjax.train_step.make_train_step`.

    Returns:
        A gradient transformation; its state is a `GuardState` around that of optax.

    Raises:
        TypeError: If a guard is not a `Guard`.
        ValueError: As in `adamw`.

    Source:
        Chen et al. (2023), arXiv:2302.06675.

    Example:
        >>> optimizer = lion(0.5, weight_decay=0.0)
        >>> params = jnp.ones(2)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jnp.array([3.0, -2.0]), state, params)
        >>> print(updates)
        [-0.5  0.5]
    """

    def moments(
        gradients: PyTree, before: optax.ScaleByLionState
    ) -> optax.ScaleByLionState:
        return optax.ScaleByLionState(
            count=optax.safe_increment(before.count),
            mu=optax.tree.update_moment(gradients, before.mu, b2, 1),
        )

    def direction(
        gradients: PyTree,
        before: optax.ScaleByLionState,
        after: optax.ScaleByLionState,
    ) -> PyTree:
        del after
        return _map(
            lambda g, m: jnp.sign((1.0 - b1) * g + b1 * m), gradients, before.mu
        )

    decay, rate = _decay_and_rate(weight_decay, mask, learning_rate)
    return fold(
        "lion",
        optax.lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask),
        Formula(moments, direction, from_before=True),
        (decay, rate),
        (weight_decay, learning_rate),
        guards=guards,
        form=form,
    )


def _decay_and_rate(weight_decay: Any, mask: Any, learning_rate: Any) -> tuple:
    return (
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _map(function: Callable, gradients: PyTree, *trees: PyTree) -> PyTree:
    """Map over leaves; where there is no gradient there is no result."""
    return jax.tree.map(
        lambda g, *others: None if g is None else function(g, *others),
        gradients,
        *trees,
        is_leaf=lambda leaf: leaf is None,
    )
