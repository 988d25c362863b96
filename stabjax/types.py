"""The words everything speaks: losses, statistics of a step, verdicts, guards."""

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

if TYPE_CHECKING:
    # Jaxtyping hides it from type checkers, who would call all that has it unknown.
    PyTree = Any
else:
    from jaxtyping import PyTree

Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
Count = Int[Array, ""]
Params = PyTree
Batch = PyTree
Updates = PyTree
Aux = Mapping[str, Any]


# What a loss may return: its value, or its value and its report.
LossResult = ArrayLike | tuple[ArrayLike, Aux | None]

# What is accepted where a loss is asked for; see `LossFn` for what it is made into.
Loss = Callable[..., LossResult]


@runtime_checkable
class LossFn(Protocol):
    """A pure loss: ``(params, batch, key) -> (loss, aux)``.

    ``aux`` is a flat mapping. Its keys ``raw/<name>`` and ``weighted/<name>`` are
    the named loss components and belong to the finite contract; ``model_state``
    is the new model state of a stateful model; every other entry is a scalar
    metric that is logged under its name. A metric that has the name of a telemetry
    column of ours, such as ``loss``, ``step`` or ``skip_spikes/streak/loss``, is
    logged as ``aux/<name>``, and guards find it by that name too.

    A stateful loss also takes ``model_state=``. One whose weights follow a
    schedule takes ``step=`` and says so by an attribute ``wants_step = True``, or
    by having no default for it.

    Where a loss is asked for, these forms (`Loss`) are accepted as well: ``(params,
    batch)``, ``(params, batch, *, key)``, and a result that is the loss alone or
    ``(loss, None)``. Which it is, the signature says. A third argument takes the key,
    unless it is called ``model_state`` or ``step``, or has a default that is not None
    and a name without ``key`` or ``rng``.
    """

    def __call__(
        self, params: Params, batch: Batch, key: Any, /, **kwargs: Any
    ) -> tuple[Scalar, Aux]:
        """Return the scalar loss and its flat mapping of scalars."""
        ...


class Alert(enum.IntFlag):
    """What happened in a step, as bits that combine with ``|``."""

    NONFINITE_LOSS = 1 << 0
    NONFINITE_COMPONENT = 1 << 1
    NONFINITE_GRADIENT = 1 << 2
    NONFINITE_STATE = 1 << 3
    NORM_OVERFLOW = 1 << 4
    GRADIENT_RANGE = 1 << 5
    CLIPPED = 1 << 6
    LOSS_SPIKE = 1 << 7
    GRADIENT_SPIKE = 1 << 8
    UPDATE_SPIKE = 1 << 9
    PLATEAU = 1 << 10
    BACK_OFF = 1 << 11
    ROLLBACK = 1 << 12
    HALT = 1 << 13
    ACCEPTED_NONFINITE = 1 << 14
    REBASED = 1 << 15
    MOMENTS_RESET = 1 << 16
    REPAIRED = 1 << 17
    UPDATE_RATIO = 1 << 18
    SATURATED = 1 << 19
    EMPTY = 1 << 20
    SENTINEL = 1 << 21
    TRIVIAL = 1 << 22
    LOSS_SCALE = 1 << 23
    DEAD_GRADIENT = 1 << 24
    OUT_OF_RANGE = 1 << 25
    DAMAGED_BEFORE = 1 << 26

    def when(self, condition: Flag) -> Count:
        """Return the bit as int32 where ``condition`` holds, else 0."""
        return jnp.where(condition, jnp.int32(self.value), jnp.int32(0))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Static description of a parameter tree.

    Attributes:
        leaves: Path of each leaf, in the order of `jax.tree.leaves`.
        sizes: How many elements each has.
    """

    leaves: tuple[str, ...]
    sizes: tuple[int, ...]

    def members(self, prefixes: tuple[str, ...]) -> tuple[int, ...]:
        """Return for each leaf the index of its group; the last index is the rest.

        A leaf belongs to the longest prefix that equals its path or ends at one of
        its ``/``; leaves that no prefix names form the group ``len(prefixes)``.
        """

        def group_of(leaf: str) -> int:
            fits = [p for p in prefixes if leaf == p or leaf.startswith(p + "/")]
            return prefixes.index(max(fits, key=len)) if fits else len(prefixes)

        return tuple(group_of(leaf) for leaf in self.leaves)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepStats:
    """Scalars of one step, measured in one pass, that every guard judges on.

    Attributes:
        loss: The total loss, float32.
        components: Named components, ``raw/<name>`` and ``weighted/<name>``.
        grad_norm: Global l2 norm of the gradient before any clipping; the largest
            float32 if it is larger.
        norm_in_unit: The same over ``norm_unit``; what a bound is to be divided by.
        norm_unit: 1; of a norm above 2**112, whose reciprocal is no good, 2**49. The
            gradient is divided by it before it is scaled.
        leaf_norms: Norm of each leaf, in the order of ``layout.leaves``.
        finite: Loss, every component, every gradient element, the new model state and
            the optimizer state before the step are finite.
        loss_finite: The total loss is finite.
        components_finite: Every named component is finite.
        gradient_finite: Every gradient element is finite.
        model_state_finite: No finite element of the model state would be lost.
        overflow: The gradient is finite but its sum of squares is not.
        moments_finite: The optimizer state was finite before the step, in what a train
            step looks at. Of an optimizer that is not known it may be infinite.
        damaged_before: The step is not finite because parameters, or the optimizer
            state, were not before it.
        first_bad_leaf: Index of the first leaf with a non-finite element, of the
            parameters if they were damaged before and else of the gradient, or -1.
        first_bad_component: The same among the sorted component names, or -1.
        update_measured: Whether an update has been measured: not before the first, nor
            where nothing measures it.
        update_norm: Norm of the last applied update (see `core.movement`); zero
            before the first and where it is not measured.
        update_ratio: ``update_norm`` over the norm of the parameters.
        step: Attempted steps before this one.
        applied: Steps applied before this one.
        consecutive_refused: Length of the streak of refusals just before this step.
        nonfinite_elements: Gradient elements that were not finite; above 2**24 of
            one leaf rounded.
        repaired: How many of them were set to zero.
        metrics: Every other scalar that the loss reports, float32; may be NaN.
        layout: Static names and sizes of the leaves.
    """

    loss: Scalar
    components: dict[str, Scalar]
    grad_norm: Scalar
    norm_in_unit: Scalar
    norm_unit: Scalar
    leaf_norms: Float[Array, " leaves"]
    finite: Flag
    loss_finite: Flag
    components_finite: Flag
    gradient_finite: Flag
    model_state_finite: Flag
    overflow: Flag
    moments_finite: Flag
    damaged_before: Flag
    first_bad_leaf: Count
    first_bad_component: Count
    update_measured: Flag
    update_norm: Scalar
    update_ratio: Scalar
    step: Count
    applied: Count
    consecutive_refused: Count
    nonfinite_elements: Count
    repaired: Count
    metrics: dict[str, Scalar]
    layout: Layout = dataclasses.field(metadata={"static": True})

    @property
    def update_is_new(self) -> Flag:
        """Whether the update is that of the step before.

        After a refusal it is an old one, judged already.
        """
        fresh = (self.consecutive_refused == 0) & (self.applied > 0)
        return self.update_measured & fresh


# With more groups than these, their factors are combined as a vector.
MANY_GROUPS = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupScale:
    """One factor per group of leaves; each stays a scalar until it is applied.

    A vector of factors would be sliced in every kernel that scales a leaf, which XLA
    for TPU answers with a copy of each leaf.

    Attributes:
        factors: One scalar per group.
        group_of_leaf: Static index into ``factors`` of each leaf of the layout.
    """

    factors: tuple[Scalar, ...]
    group_of_leaf: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def smallest(self) -> Scalar:
        """Return the smallest factor."""
        if self.many:
            return jnp.min(jnp.stack(self.factors))
        return functools.reduce(jnp.minimum, self.factors)

    def at_most(self, bound: Scalar) -> "GroupScale":
        """Return the scale with every factor at most ``bound``."""
        if self.many:
            factors = jnp.unstack(jnp.minimum(jnp.stack(self.factors), bound))
        else:
            factors = (jnp.minimum(factor, bound) for factor in self.factors)
        return GroupScale(tuple(factors), self.group_of_leaf)

    @property
    def many(self) -> bool:
        """Whether the factors are better judged as one vector, as one per leaf are.

        XLA makes a kernel, or more, of each scalar operation on CPU.
        """
        return len(self.factors) > MANY_GROUPS

    def per_leaf(self) -> tuple[Scalar, ...]:
        """Return the factor of each leaf of the layout."""
        return tuple(self.factors[group] for group in self.group_of_leaf)


# No bound: what nothing exceeds.
LARGEST = float(jnp.finfo(jnp.float32).max)


class Verdict(NamedTuple):
    """What a guard says about a step; build one with `verdict`.

    Combined over guards: accept by *and*, gradient_scale and largest_update by minimum
    (the smallest satisfies every bound), update_scale by product, all others by *or*.

    Attributes:
        accept: Apply the step. The finite contract is checked besides.
        gradient_scale: Factor on the gradient in (0, 1]: one, or one per group.
        update_scale: Factor on the update of the inner optimizer, > 0.
        largest_update: What the size of an update is scaled down to [parameter], its
            size as in `StepOutcome`; from a guard that ``bounds_updates``.
        roll_back: Return to the last good snapshot.
        halt: Refuse this and every later step until the caller restores.
        waive: Apply the step although it is not finite (optax compatibility).
        reset_moments: Start the moments of the inner optimizer anew after this step,
            with the counters beside them; from a guard that ``resets_moments``.
        alerts: Bits of `Alert`.
    """

    accept: Flag
    gradient_scale: Scalar | GroupScale
    update_scale: Scalar
    largest_update: Scalar
    roll_back: Flag
    halt: Flag
    waive: Flag
    reset_moments: Flag
    alerts: Count


def verdict(
    *,
    accept: Flag | bool = True,
    gradient_scale: Scalar | GroupScale | float = 1.0,
    update_scale: Array | float = 1.0,
    largest_update: Array | float = LARGEST,
    roll_back: Flag | bool = False,
    halt: Flag | bool = False,
    waive: Flag | bool = False,
    reset_moments: Flag | bool = False,
    alerts: Count | int = 0,
) -> Verdict:
    """Build a `Verdict` with strong dtypes; what is left out is neutral.

    Example:
        >>> bool(verdict().accept), float(verdict(update_scale=0.5).update_scale)
        (True, 0.5)
    """
    if not isinstance(gradient_scale, GroupScale):
        gradient_scale = jnp.asarray(gradient_scale, jnp.float32)
    return Verdict(
        accept=jnp.asarray(accept, jnp.bool_),
        gradient_scale=gradient_scale,
        update_scale=jnp.asarray(update_scale, jnp.float32),
        largest_update=jnp.asarray(largest_update, jnp.float32),
        roll_back=jnp.asarray(roll_back, jnp.bool_),
        halt=jnp.asarray(halt, jnp.bool_),
        waive=jnp.asarray(waive, jnp.bool_),
        reset_moments=jnp.asarray(reset_moments, jnp.bool_),
        alerts=jnp.asarray(alerts, jnp.int32),
    )


class StepOutcome(NamedTuple):
    """What became of a step, for guards that learn from it.

    Attributes:
        applied: The step was applied.
        lost: It was accepted, but the update or the new state was not finite, so that
            it was refused after all.
        alerts: Bits of `Alert` of all guards.
        update_size: Root mean square of what the update moves [parameter], before it
            is bounded; zero if it was not measured or is not finite. A train step
            looks at a sample. Measured where a guard ``bounds_updates``.
    """

    applied: Flag
    lost: Flag
    alerts: Count
    update_size: Scalar


@dataclasses.dataclass(frozen=True)
class Guard:
    """A judge on scalars: pure functions and a name.

    Attributes:
        name: The registered name; prefix of the guard's telemetry columns.
        init: ``() -> state``, a NamedTuple of float32, int32 or bool scalars or
            small vectors, each in a fresh buffer. Scalar fields are telemetry.
        judge: ``(state, stats) -> (state, Verdict)``. Called for every step, also
            for one that ends up refused: what it writes may count attempts, and
            teaches nothing about a healthy run.
        learn: ``(state, stats, outcome) -> state``, or None. Called after the
            decision, with the state from ``judge`` and a `StepOutcome`; statistics
            of healthy steps learn here, where ``outcome.applied`` is true.
        subject: What its alerts are about, such as the name of a metric; empty if
            the guard's name says it.
        labels: Names of the entries of the vector fields of the state.
        rolls_back: Whether it can ask for a rollback, which needs snapshots.
        reads_loss: Whether it judges on the loss, which `guard` then requires.
        resets_moments: Whether it can ask for a reset of the inner optimizer.
        bounds_updates: Whether it judges on the size of an update before that is
            applied.
        repairs: Whether non-finite gradient elements are set to zero, and counted,
            before anything is measured.
        loss_scale: ``state -> scale``, a power of two that multiplies the loss while
            it is differentiated; the guard itself sees true units.
    """

    name: str
    init: Callable[[], Any]
    judge: Callable[[Any, StepStats], tuple[Any, Verdict]]
    learn: Callable[[Any, StepStats, StepOutcome], Any] | None = None
    subject: str = ""
    labels: tuple[str, ...] = ()
    rolls_back: bool = False
    reads_loss: bool = False
    resets_moments: bool = False
    bounds_updates: bool = False
    repairs: bool = False
    loss_scale: Callable[[Any], Scalar] | None = None
