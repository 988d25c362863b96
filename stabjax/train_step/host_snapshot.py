"""Snapshots for rollback that lie in the memory of the host.

A snapshot inside the train state takes device memory as large as parameters and
optimizer state together. One in pinned host memory takes none, is copied while the
device goes on, and is taken and put back by the loop between two steps. The loop
learns of a rollback from the telemetry, so that it comes some steps late; what was
trained in between is given up.
"""

import jax
from jaxtyping import PyTree

from stabjax.core import movement
from stabjax.train_step.state import Snapshot, TrainState


def keep(state: TrainState) -> Snapshot:
    """Return a copy of what a rollback restores, in pinned host memory.

    Returns at once; the device copies while it goes on.

    Args:
        state: From `TrainStep.init` or a step.

    Returns:
        The copy. It outlives the state, which the next step may consume.
    """
    parts = Snapshot(state.params, state.opt_state, state.model_state)
    return _copied(parts, "pinned_host")


def restore(state: TrainState, snapshot: Snapshot) -> TrainState:
    """Return the state with parameters, optimizer and model state of a snapshot.

    Counters, guard states and telemetry stay: they tell what happened.

    Args:
        state: The present state; not consumed.
        snapshot: From `keep`; not consumed, it can be restored again.

    Returns:
        The state to go on from.
    """
    memory = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)}
    back = _copied(snapshot, memory.pop() if memory else "device")
    # The way back is no update, and its length must not look like a spike.
    sampled = state.sample
    if sampled.shape[0] > 0:
        sampled = movement.sample(back.params, back.opt_state)
    return state._replace(
        params=back.params,
        opt_state=back.opt_state,
        model_state=back.model_state,
        sample=sampled,
    )


def _copied(tree: PyTree, memory: str) -> PyTree:
    def copied(leaf: jax.Array) -> jax.Array:
        where = leaf.sharding.with_memory_kind(memory)
        # A step donates its state: what shares a buffer with it would be lost.
        return jax.device_put(leaf, where, may_alias=False)

    return jax.tree.map(copied, tree)
