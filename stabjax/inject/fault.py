"""What breaks, where and when."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stabjax.types import Count, Flag

Kind = Literal["nan", "inf", "-inf", "spike", "overflow", "frozen", "bit_flip"]
When = int | range | Callable[[Count], Flag]
ALWAYS = range(2**31 - 1)


class Shard(NamedTuple):
    """One place along an axis of `jax.shard_map` or `jax.vmap`.

    Attributes:
        axis: Name of the axis.
        index: Position along it, >= 0.
    """

    axis: str
    index: int


@dataclasses.dataclass(frozen=True)
class Fault:
    """What breaks, where and when.

    Attributes:
        kind: ``"nan"``, ``"inf"``, ``"-inf"``: the element becomes that.
            ``"spike"``: it is multiplied by ``factor``. ``"overflow"``: it becomes
            2**100, finite but with an infinite square (float16: its largest number).
            ``"frozen"``: it becomes ``value``. ``"bit_flip"``: bit ``bit`` of its
            pattern is turned over.
        where: Path of a leaf, or a prefix of paths that ends at a ``/``. For
            `into_loss` it starts with ``loss``, ``aux`` (``aux/raw/fit`` a component,
            ``aux/<name>`` a metric, ``aux/model_state/...`` the new model state),
            ``gradient`` or ``batch``; for `into_state` it is the path in the state,
            such as ``params/core/kernel`` or ``opt_state/0/mu``.
        when: Attempted step; or a range of steps, ``range(10, 10**9, 7)`` being every
            seventh from the tenth; or a function of the step, such as `sometimes`.
        element: Index into the flattened leaf, negative from its end, of each leaf
            under ``where``; None: every element.
        factor: Of a spike, finite.
        value: Of a frozen element.
        bit: Bit turned over, 0 the lowest of the mantissa. Of float32, 31 is the sign
            and 30 the highest of the exponent.
        shard: Only there; None: on every shard.

    Raises:
        ValueError: If an attribute is out of range.

    Example:
        >>> Fault("nan", "gradient/core/kernel", when=7, element=0).when
        7
    """

    kind: Kind
    where: str
    when: When = ALWAYS
    element: int | None = None
    factor: float = 1e3
    value: float = 0.0
    bit: int = 30
    shard: Shard | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(Kind))
        if not self.where:
            raise ValueError("inject: where must be a path, got ''.")
        if not math.isfinite(self.factor):
            raise ValueError(f"inject: factor must be finite, got {self.factor}.")
        if isinstance(self.when, range) and self.when.step < 1:
            raise ValueError(f"inject: when must go forward, got {self.when}.")
        if not 0 <= self.bit < 64:
            raise ValueError(f"inject: bit must be in [0, 63], got {self.bit}.")
        if self.kind == "bit_flip" and self.element is None:
            raise ValueError("inject: a bit_flip must name an element, got None.")

    def fires(self, step: Count | int) -> Flag:
        """Return whether the fault happens in this step, on this shard."""
        fire = _is_due(self.when, jnp.asarray(step, jnp.int32))
        if self.shard is not None:
            fire &= jax.lax.axis_index(self.shard.axis) == self.shard.index
        return fire


def sometimes(probability: float, key: Array) -> Callable[[Count], Flag]:
    """Return a ``when`` that holds in a share of the steps, the same in every run.

    Args:
        probability: Share of the steps, in [0, 1].
        key: Random key; the step is folded in.

    Returns:
        A function of the step.

    Raises:
        ValueError: If ``probability`` is out of range.

    Example:
        >>> when = sometimes(0.25, jax.random.key(0))
        >>> sum(bool(when(step)) for step in range(100))
        24
    """
    if not 0 <= probability <= 1:
        raise ValueError(
            f"sometimes: probability must be in [0, 1], got {probability}."
        )
    return lambda step: jax.random.bernoulli(jax.random.fold_in(key, step), probability)


def _is_due(when: When, step: Count) -> Flag:
    if isinstance(when, int):
        return step == when
    if isinstance(when, range):
        stop = min(when.stop, ALWAYS.stop)  # of what an int32 can hold
        inside = (step >= when.start) & (step < stop)
        return inside & ((step - when.start) % when.step == 0)
    return when(step)


def one_of(what: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of the valid words."""
    if value not in valid:
        raise ValueError(
            f"inject: {what} must be one of {', '.join(valid)}, got {value!r}"
            f"{nearest(value, valid)}"
        )


def nearest(value: str, valid: Iterable[str]) -> str:
    """Return the end of a message: the nearest valid name, if one is near."""
    near = difflib.get_close_matches(value, sorted(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."
