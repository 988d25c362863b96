"""The loss of each sample of a batch, and means over some of them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from stabjax.core.blame import becomes_nonfinite
from stabjax.core.layout import is_inexact, leaf_name
from stabjax.loss_transforms._transformed import (
    PREFIX,
    Call,
    call_inner,
    names_of,
)
from stabjax.losses._weigh import check_names
from stabjax.types import Batch, LossFn, Scalar

PerSample = Float[Array, " batch"]
Kept = Bool[Array, " batch"]


class Samples(NamedTuple):
    """What a loss returned for every sample.

    Attributes:
        loss: The loss of each, float32.
        weighted: The components that add up to it, by name; empty if none is named.
        rest: The other scalars of each, float32, by name.
        model_state: The new model state of each, or None.
    """

    loss: PerSample
    weighted: dict[str, PerSample]
    rest: dict[str, PerSample]
    model_state: Any

    def finite(self, old_state: Any) -> Kept:
        """Return for which samples loss, components and new state are finite."""
        raw = [v for name, v in self.rest.items() if name.startswith(("raw/", PREFIX))]
        fine = jnp.isfinite(self.loss)
        for value in (*self.weighted.values(), *raw):
            fine &= jnp.isfinite(value)
        if self.model_state is None:
            return fine
        return fine & ~jax.vmap(becomes_nonfinite, (None, 0))(
            old_state, self.model_state
        )


class Inputs(NamedTuple):
    """The arguments of a call that are not differentiated.

    Attributes:
        batch: The samples, along the leading axis of every leaf.
        keys: A key for each, or one for a loss that takes the batch whole, or None.
        step: The step, or None.
        keywords: ``model_state=`` of a stateful loss, else empty.
    """

    batch: Batch
    keys: Any
    step: Any
    keywords: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SampleLoss:
    """A loss whose samples are looked at one by one.

    Attributes:
        origin: The function that asks, for messages.
        loss_fn: ``(params, sample, key) -> (loss, aux)``; or of a whole batch, with a
            value per sample in each place.
        batched: Which of the two it is.
    """

    origin: str
    loss_fn: LossFn
    batched: bool

    def inputs(self, call: Call) -> Inputs:
        """Return the arguments of a call, with a key for each sample."""
        batch, keys = jax.tree.map(jnp.asarray, call.batch), call.key
        count = self.count(batch)
        if not self.batched and keys is not None:
            axis = _axis_of(jax.tree.leaves(batch)[0])
            keys = _placed(jax.random.split(keys, count), axis)
        return Inputs(batch, keys, call.step, call.keywords)

    def count(self, batch: Batch) -> int:
        """Return how many samples a batch has."""
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        shapes = {leaf_name(path): jnp.shape(leaf) for path, leaf in leaves}
        counts = {shape[0] if shape else 0 for shape in shapes.values()}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(
                f"{self.origin}: every leaf of the batch must have the samples along "
                f"its leading axis, at least one, got shapes {shapes}."
            )
        return counts.pop()

    def __call__(self, params: Any, inputs: Inputs) -> Samples:
        """Return what the loss says of each sample."""

        def call(batch: Batch, key: Any) -> tuple[Any, Any]:
            arguments = Call(params, batch, key, inputs.step, inputs.keywords)
            return call_inner(self.origin, self.loss_fn, arguments)

        run = call if self.batched else jax.vmap(call)
        loss, aux = run(inputs.batch, inputs.keys)
        return self._taken_apart(loss, dict(aux), self.count(inputs.batch))

    def again(self, params: Any, inputs: Inputs, sources: Int[Array, " batch"]):
        """Return what it says of a batch that is put together from its samples."""

        def chosen(leaf: Array) -> Array:
            place = None if _axis_of(leaf) is None else jax.typeof(leaf).sharding
            there = leaf.at[sources]
            return there.get(mode="promise_in_bounds", out_sharding=place)

        # The same noise: a sample is judged by what it gave.
        keys = jax.tree.map(jax.random.clone, inputs.keys)
        keys = keys if self.batched else jax.tree.map(chosen, keys)
        batch = jax.tree.map(chosen, inputs.batch)
        return self(params, inputs._replace(batch=batch, keys=keys))

    def _taken_apart(self, loss: Any, aux: dict[str, Any], count: int) -> Samples:
        state = aux.pop("model_state", None)
        found = sorted(n.removeprefix(PREFIX) for n in aux if n.startswith(PREFIX))
        names = names_of(self.loss_fn) or tuple(found)
        check_names(self.origin, "components", names, found)
        for value in (loss, *(aux[PREFIX + name] for name in names)):
            if not is_inexact(value):
                raise ValueError(
                    f"{self.origin}: a loss and its components must be floats, "
                    f"got {jnp.result_type(value)}."
                )
        total = self._values("loss", loss, count)
        values = {name: self._values(name, value, count) for name, value in aux.items()}
        weighted = {name: values.pop(PREFIX + name) for name in names}
        if weighted:
            named = functools.reduce(jnp.add, weighted.values())
            values.setdefault("unnamed", total - named)
            total = named
        for leaf in jax.tree.leaves(state):
            if jnp.shape(leaf)[:1] != (count,):
                raise ValueError(
                    f"{self.origin}: the model state of a batch must be one of each "
                    f"sample, along the leading axis, got shape {jnp.shape(leaf)}."
                )
        state = jax.tree.map(lambda leaf: _placed(leaf, None), state)
        return Samples(total, weighted, values, state)

    def _values(self, name: str, value: Any, count: int) -> PerSample:
        value = jnp.asarray(value)
        if value.shape != (count,):
            each = f"shape ({count},)" if self.batched else "shape ()"
            shape = value.shape if self.batched else value.shape[1:]
            raise ValueError(
                f"{self.origin}: {name!r} must have {each}, got shape {shape}."
            )
        # Everywhere: the samples are compared with each other.
        return _placed(value.astype(jnp.float32), None)


def _axis_of(leaf: Array) -> Any:
    """Return the mesh axis that the samples are spread over, where types tell it."""
    spec = jax.typeof(leaf).sharding.spec
    return spec[0] if spec else None


def _placed(leaf: Array, axis: Any) -> Array:
    """Return the leaf with its samples spread like that."""
    if _axis_of(leaf) == axis:
        return leaf
    rest = jax.typeof(leaf).sharding.spec[1:]
    return jax.sharding.reshard(leaf, PartitionSpec(axis, *rest))


def mean(values: PerSample, kept: Kept) -> Scalar:
    """Return the mean over the samples that are kept."""
    total = jnp.sum(jnp.where(kept, values, 0.0))
    return total / jnp.sum(kept, dtype=jnp.float32)


def mean_state(state: Any, kept: Kept) -> Any:
    """Return the mean model state; of what is no float, that of the first kept."""
    first = jnp.argmax(kept)

    def one(leaf: Array) -> Array:
        if not is_inexact(leaf):
            return leaf[first]
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        mask = kept.reshape(kept.shape + (1,) * (leaf.ndim - 1))
        count = jnp.sum(kept, dtype=jnp.float32)
        return (jnp.sum(jnp.where(mask, wide, 0.0), axis=0) / count).astype(leaf.dtype)

    return jax.tree.map(one, state)
