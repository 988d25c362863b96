"""Train on the good samples of a batch, and count the others."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from stabjax.core.elementwise import scale_leaves
from stabjax.core.layout import is_inexact
from stabjax.loss_transforms._samples import (
    Inputs,
    Kept,
    SampleLoss,
    Samples,
    mean,
    mean_state,
)
from stabjax.loss_transforms._sift import Gradient, count, is_finite, sift
from stabjax.loss_transforms._transformed import (
    PREFIX,
    Call,
    TransformedLoss,
    names_of,
)
from stabjax.losses._weigh import merge_aux
from stabjax.numerics._check import check_range
from stabjax.types import Aux, Batch, LossFn, Scalar

_ORIGIN = "drop_bad_samples"


def drop_bad_samples(
    loss_fn: LossFn, *, batched: bool = False, max_share: float = 0.5
) -> TransformedLoss:
    """Average the loss over the samples of a batch, without those that are not finite.

    ``sum_(i good) loss_i / (number of good)``. A sample is bad if its loss, one of its
    components or its new model state is not finite, or its gradient: zero times an
    infinity, as behind a `jnp.where`, makes that NaN under a finite loss. Samples have
    to be independent of each other: no batch statistics, no collectives.

    Where all is finite this is the usual mean, with its usual backward pass and one
    more read of the gradient. Else the gradient is taken again, with a good sample in
    the place of each bad one, so that nothing flows from those. If it still is not
    finite, the samples to blame are found by halving, in about ``log2(batch) + 1`` such
    passes for each. All this is a loop in the same program, not run where not needed:
    room for two more gradients is reserved for it, on a GPU the host waits for its
    condition, and under `jax.vmap` it runs for all members if one needs it. In
    `jax.shard_map` every device drops and averages its own samples.

    Other transforms go around it. One that takes components apart, such as `pcgrad`,
    costs a pass more for those it asks for. A call that is not differentiated
    gives the same numbers, at the same cost.

    Args:
        loss_fn: A loss of one sample, ``(params, sample, key) -> (loss, aux)``; it need
            not name components. Mapped over the leading axis of all leaves of the
            batch, with a key of its own for each sample.
        batched: ``loss_fn`` takes the whole batch and one key, and returns the loss and
            each entry of its aux with the shape (batch,).
        max_share: A batch with more than this part of its samples bad, in [0, 1], is
            left as it is, for the guards to refuse; so is one without a good sample.

    Returns:
        A loss over a batch. Whatever ``loss_fn`` reports is averaged over the samples
        that are kept, a floating-point model state too; of other state the first
        counts. Metrics: ``bad_samples``, how many were found; ``dropped_samples``, how
        many were left out, 0 in a batch that is left as it is; ``dropped_share``, the
        same over the batch, as for `stabjax.guards.metric_range`;
        ``first_bad_sample``, its index or -1.

    Raises:
        ValueError: If ``max_share`` is out of range or, when called, if the leaves of
            the batch have no common leading axis, or a loss or an entry of its aux is
            not a scalar per sample.

    Gradient:
        ``sum_(i good) grad loss_i / (number of good)``. Which samples are good counts
        as constant, and what is reported beside the components has no gradient. It is
        taken together with the value and multiplied by the cotangent, so a loss scale
        outside does not reach the backward pass of float16. Of the batch there is none:
        asking is an error, and so is forward mode. Of second order there is forward
        over reverse (`jax.jvp` of the gradient); reverse over reverse is an error.

    Source:
        Own; the halving is group testing, Dorfman (1943) and Sobel & Groll (1959).

    Example:
        >>> def loss_fn(params, sample, key):
        ...     return (params * sample - 1.0) ** 2, {}
        >>> grad_fn = jax.value_and_grad(drop_bad_samples(loss_fn), has_aux=True)
        >>> batch = jnp.array([1.0, jnp.nan, 3.0])
        >>> (loss, aux), gradient = grad_fn(jnp.float32(1.0), batch, jax.random.key(0))
        >>> float(loss), float(gradient), float(aux["dropped_samples"])
        (2.0, 6.0, 1.0)
    """
    check_range(_ORIGIN, "max_share", max_share, low=0.0, high=1.0)
    samples = SampleLoss(_ORIGIN, loss_fn, batched)

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        inputs = samples.inputs(call)
        size = samples.count(inputs.batch)
        # The product alone would make 28 of 0.29 * 100.
        limit = min(math.floor(max_share * size + 1e-6), size - 1)
        loss, weighted, report = _mean_of_good(samples, limit, call.params, inputs)
        named = {PREFIX + name: value for name, value in weighted.items()}
        return loss, merge_aux(_ORIGIN, named, report)

    return TransformedLoss(loss_fn, evaluate, names_of(loss_fn))


class _Operands(NamedTuple):
    """What a call is made of.

    Attributes:
        moving: The floating-point leaves of the parameters.
        fixed: Their other leaves.
        inputs: Everything but the parameters.
    """

    moving: Any
    fixed: Any
    inputs: Any


class _Problem(NamedTuple):
    """The static side of it.

    Attributes:
        samples: The loss of each sample.
        limit: With more bad samples than these the batch is left as it is.
        structure: How the parameters are put together from their leaves.
        moves: Which leaves are floating-point.
    """

    samples: SampleLoss
    limit: int
    structure: Any
    moves: tuple[bool, ...]

    def params(self, moving: Gradient, operands: _Operands) -> Any:
        """Return the parameters, with these for the leaves that move."""
        first, rest = iter(moving), iter(operands.fixed)
        leaves = [next(first if moves else rest) for moves in self.moves]
        return jax.tree.unflatten(self.structure, leaves)

    def over(self, operands: _Operands, chosen: Kept, moving: Gradient) -> Samples:
        """Return what the loss says where every other sample is replaced.

        By the first that is chosen: of what is not there, nothing can flow.
        """
        places = jnp.arange(chosen.shape[0])
        sources = jnp.where(chosen, places, jnp.argmax(chosen))
        params = self.params(moving, operands)
        return self.samples.again(params, operands.inputs, sources)


def _mean_of_good(
    samples: SampleLoss, limit: int, params: Any, inputs: Inputs
) -> tuple[Scalar, dict[str, Scalar], dict[str, Any]]:
    """Return loss, components and report under a backward pass of their own."""
    leaves, structure = jax.tree.flatten(params)
    moves = tuple(is_inexact(leaf) for leaf in leaves)
    problem = _Problem(samples, limit, structure, moves)
    fixed = [leaf for leaf, moves in zip(leaves, moves, strict=True) if not moves]
    moving = [leaf for leaf, moves in zip(leaves, moves, strict=True) if moves]
    moving = [_as_local(leaf, inputs.batch) for leaf in moving]

    @jax.custom_vjp
    def evaluate(operands: _Operands) -> Any:
        return _forward(problem, operands)[0]

    def forward(operands: _Operands) -> Any:
        # Passed, not closed over: JAX then says what is differentiated.
        if any(leaf.perturbed for leaf in jax.tree.leaves(operands.inputs)):
            raise ValueError(
                f"{_ORIGIN}: only parameters can be differentiated, got a batch, "
                f"a model state or a step that is."
            )
        return _forward(problem, jax.tree.map(lambda leaf: leaf.value, operands))

    def backward(residual: Any, cotangents: Any) -> tuple[_Operands]:
        return (_Operands(_backward(problem, residual, cotangents), None, None),)

    evaluate.defvjp(forward, backward, symbolic_zeros=True)
    return evaluate(_Operands(moving, fixed, inputs))


def _as_local(leaf: Any, batch: Batch) -> Array:
    """Return a leaf that may differ between devices where the batch does.

    Inside `jax.shard_map` a gradient is summed over devices where a parameter becomes
    local. That has to be outside of a loop which not every device runs.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return leaf
    return leaf + jnp.zeros_like(jax.tree.leaves(batch)[0], leaf.dtype, shape=())


def _forward(problem: _Problem, operands: _Operands) -> tuple[Any, Any]:
    """Return what is reported, and what the backward pass needs."""
    found, bad, gradient = _judged(problem, operands)
    dropped = jnp.where(count(bad) > problem.limit, 0, count(bad))
    kept = ~bad | (dropped == 0)
    report = {name: mean(value, kept) for name, value in found.rest.items()}
    if found.model_state is not None:
        report["model_state"] = mean_state(found.model_state, kept)
    metrics = {
        "bad_samples": count(bad),
        "dropped_samples": dropped,
        "dropped_share": dropped / bad.shape[0],
        "first_bad_sample": jnp.where(jnp.any(bad), jnp.argmax(bad), -1),
    }
    metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
    weighted = {name: mean(value, kept) for name, value in found.weighted.items()}
    outputs = mean(found.loss, kept), weighted, merge_aux(_ORIGIN, report, metrics)
    return outputs, (gradient, kept, operands)


def _judged(problem: _Problem, operands: _Operands) -> tuple[Samples, Kept, Gradient]:
    """Return the loss of each sample, which are bad, and the gradient of the others."""

    def plain(moving: Gradient) -> tuple[Scalar, Samples]:
        params = problem.params(moving, operands)
        found = problem.samples(params, operands.inputs)
        return jnp.mean(found.loss), found

    loss, pull, found = jax.vjp(plain, operands.moving, has_aux=True)
    (gradient,) = pull(jnp.ones_like(loss))
    bad = ~found.finite(operands.inputs.keywords.get("model_state"))
    again = (jnp.any(bad) | ~is_finite(gradient)) & (count(bad) <= problem.limit)

    def second_pass(carry: tuple[Any, Kept, Gradient]) -> tuple[Any, Kept, Gradient]:
        _, known, whole = carry
        good = count(~known)

        def gradient_over(chosen: Kept) -> Gradient:
            def total(moving: Gradient) -> Scalar:
                losses = problem.over(operands, chosen, moving).loss
                return jnp.sum(jnp.where(chosen, losses, 0.0)) / good

            return jax.grad(total)(operands.moving)

        bad, gradient = sift(gradient_over, known, whole, problem.limit)
        left = count(bad) > problem.limit
        gradient = [
            jnp.where(left, old, new) for old, new in zip(whole, gradient, strict=True)
        ]
        return jnp.zeros_like(again), bad, gradient

    # A loop, not a conditional: what does not run copies nothing, and under `vmap` it
    # runs only if some member needs it.
    _, bad, gradient = jax.lax.while_loop(
        lambda carry: carry[0], second_pass, (again, bad, gradient)
    )
    return found, bad, gradient


def _backward(problem: _Problem, residual: Any, cotangents: Any) -> Gradient | None:
    """Return the gradient at hand, or that of the components that are asked for."""
    gradient, kept, operands = residual
    loss, weighted, _ = cotangents
    parts = [] if _is_zero(loss) else [scale_leaves(gradient, loss)]
    asked = {name: c for name, c in weighted.items() if not _is_zero(c)}
    if asked:

        def components(moving: Gradient) -> dict[str, Scalar]:
            found = problem.over(operands, kept, moving).weighted
            return {name: mean(found[name], kept) for name in asked}

        _, pull = jax.vjp(components, operands.moving)
        parts.extend(pull(asked))
    if not parts:
        return None
    return [functools.reduce(jnp.add, leaves) for leaves in zip(*parts, strict=True)]


def _is_zero(cotangent: Any) -> bool:
    # Told while tracing; zero times the NaN of a batch that is left would be NaN.
    return isinstance(cotangent, SymbolicZero)
