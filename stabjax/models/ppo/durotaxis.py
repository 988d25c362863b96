"""Cells that wander toward stiff ground: four reward components of very unlike size.

The task whose critic could not follow: a good policy earns thousands per episode, from
counts of nodes that are rewarded one by one, a distance of a few units, and a bonus of
500 that comes once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.ppo.durotaxis_controls import bound, controls
from stabjax.models.ppo.environment import Actions, Environment, Step

__all__ = ["durotaxis"]

NODES = 64  # room for nodes
_WIDTH, _HEIGHT = 600.0, 400.0  # [px]
_LEFT, _RIGHT = 0.01 * _WIDTH, 0.99 * _WIDTH  # where nodes may be, and the goal
_LOW, _HIGH = 0.01 * _HEIGHT, 0.99 * _HEIGHT
_START, _MOST = 5, 56  # nodes at the start; more than these end the episode
_HORIZON = 300
_CRITICAL = 20  # from here on some nodes are marked for deletion
_OLD = 3  # younger ones are not [steps]
_STIFFER = 0.05  # a child on ground stiffer by this much is rewarded
_DRIFTS = 30  # steps to the left in a row that end the episode
_SUCCESS, _CROWDED, _EMPTY, _DRIFTED = 500.0, -15.0, -100.0, -50.0
# Sums over the nodes up to and including each, as one product.
_UP_TO = np.triu(np.ones((NODES, NODES), np.float32))


class DurotaxisState(NamedTuple):
    """Nodes, in no order, and what the rules remember.

    Attributes:
        x: Place along the stiffness gradient [px].
        y: Place across it [px].
        age: Steps since the node was spawned.
        alive: Which entries are nodes.
        chosen: Which of them ought to be deleted now, see `marked`.
        moved: Change of the mean x in the last step [px].
        drifts: Steps to the left in a row.
        time: Steps done.
    """

    x: Float[Array, " nodes"]
    y: Float[Array, " nodes"]
    age: Int[Array, " nodes"]
    alive: Bool[Array, " nodes"]
    chosen: Bool[Array, " nodes"]
    moved: Float[Array, ""]
    drifts: Int[Array, ""]
    time: Int[Array, ""]


def durotaxis() -> Environment:
    """Return the durotaxis task of seed 002, sized so that its goals can be reached.

    On ground of stiffness ``I(x) = 0.01 x + 1``, 600 x 400 px, nodes never move. One
    action for all: the leftmost ``floor(share n)`` are deleted, every other spawns a
    child at distance ``reach / (1 + (half / I)**2) + extra``. Rewards per step:

    - ``delete`` (weight 1): 2 for every node that was rightly kept or deleted, -2 for
      every other. Above 20 nodes some old ones on soft ground are marked for deletion.
    - ``spawn`` (0.75): 2 for a child on ground stiffer by 0.05, else -2.
    - ``distance`` (0.5): five times the step of the mean x, in widths of the goal.
    - ``termination`` (1): 500 when a node reaches the right edge; -15 above 56 nodes,
      -50 after 30 steps to the left in a row, -100 without nodes.

    Source:
        The rules of seed 002. There 200 nodes are allowed, 1000 steps, and a child
        must gain 2.5, which the largest reach cannot give.

    Example:
        >>> durotaxis().components
        ('delete', 'spawn', 'distance', 'termination')
    """
    return Environment(
        name="durotaxis",
        features=14,
        actions=Actions("continuous", 5),
        components=("delete", "spawn", "distance", "termination"),
        weights=(1.0, 0.75, 0.5, 1.0),
        horizon=_HORIZON,
        reset=_reset,
        step=_step,
        bound=bound,
        draw=_draw,
        caption="nodes on ground that is stiffer to the right, the goal",
    )


def stiffness(x: Array) -> Array:
    """Return the stiffness of the ground at ``x`` [px]."""
    return 0.01 * x + 1.0


def marked(x: Array, age: Array, alive: Array) -> Bool[Array, " nodes"]:
    """Return which nodes ought to be deleted: old, on soft ground, rightmost first.

    ``max(1, floor(0.15 (n - 20)))`` of those that are softer than the mean; none up
    to 20 nodes.
    """
    excess = _count(alive) - _CRITICAL
    candidates = alive & (x < _mean(x, alive)) & (age > _OLD)
    wanted = jnp.maximum(1, (0.15 * excess.astype(jnp.float32)).astype(jnp.int32))
    chosen = candidates & (_before(-x, candidates) < wanted)
    return chosen & (excess > 0)


def _reset(key: Any) -> tuple[DurotaxisState, Array]:
    drawn = jax.random.uniform(key, (2, _START), jnp.float32)
    empty = (0, NODES - _START)
    alive = jnp.arange(NODES) < _START
    state = DurotaxisState(
        x=jnp.pad(0.1 * _WIDTH * drawn[0], empty),
        y=jnp.pad(_HEIGHT * (0.4 + 0.2 * drawn[1]), empty),
        age=jnp.zeros((NODES,), jnp.int32),
        alive=alive,
        chosen=jnp.zeros((NODES,), jnp.bool_),
        moved=jnp.zeros((), jnp.float32),
        drifts=jnp.zeros((), jnp.int32),
        time=jnp.zeros((), jnp.int32),
    )
    return state, _observation(state)


def _step(
    key: Any, state: DurotaxisState, action: Array
) -> tuple[DurotaxisState, Step]:
    del key  # nothing here is random but the start
    act = controls(action)
    number = _count(state.alive)
    doomed = (act.share * number.astype(jnp.float32)).astype(jnp.int32)
    deleted = state.alive & (_before(state.x, state.alive) < doomed)
    kept = state.alive & ~deleted
    distance = act.reach / (1.0 + (act.half / stiffness(state.x)) ** 2) + act.extra
    x = jnp.clip(state.x + distance * jnp.cos(act.angle), _LEFT, _RIGHT)
    y = jnp.clip(state.y + distance * jnp.sin(act.angle), _LOW, _HIGH)
    stiffer = stiffness(x) - stiffness(state.x) >= _STIFFER
    after = _spawned(state, kept, x, y)
    ended, bonus, success = _ending(after)
    rewards = jnp.stack(
        [
            2.0 * _balance(state.alive, deleted == state.chosen),
            2.0 * _balance(kept, stiffer),
            5.0 * after.moved / _RIGHT,
            bonus,
        ]
    )
    return after, Step(
        observation=_observation(after),
        rewards=rewards,
        terminated=ended,
        truncated=(after.time >= _HORIZON) & ~ended,
        success=success,
    )


def _spawned(state: DurotaxisState, kept: Array, x: Array, y: Array) -> DurotaxisState:
    """Return the state in which every kept node has a child at (x, y)."""
    room = ~kept
    parent = (kept.astype(jnp.float32) @ _UP_TO).astype(jnp.int32)
    place = (room.astype(jnp.float32) @ _UP_TO).astype(jnp.int32)
    # The k-th parent's child takes the k-th free place; those without one do not
    # live, but so many nodes end the episode.
    takes = (place[:, None] == parent[None, :]) & room[:, None] & kept[None, :]
    born = jnp.any(takes, axis=1)
    child_x = jnp.sum(jnp.where(takes, x[None, :], 0.0), axis=1)
    child_y = jnp.sum(jnp.where(takes, y[None, :], 0.0), axis=1)
    now_x = jnp.where(kept, state.x, child_x)
    age = jnp.where(kept, state.age + 1, 0)
    alive = kept | born
    moved = _mean(now_x, alive) - _mean(state.x, state.alive)
    return DurotaxisState(
        x=now_x,
        y=jnp.where(kept, state.y, child_y),
        age=age,
        alive=alive,
        chosen=marked(now_x, age, alive),
        moved=moved,
        drifts=jnp.where(moved < 0.0, state.drifts + 1, 0),
        time=state.time + 1,
    )


def _ending(state: DurotaxisState) -> tuple[Array, Array, Array]:
    """Return whether it is over, the reward of that, and whether it is a success."""
    number = _count(state.alive)
    success = jnp.any(state.alive & (state.x >= _RIGHT))
    empty, crowded = number == 0, number > _MOST
    drifted = state.drifts >= _DRIFTS
    bad = jnp.where(empty, _EMPTY, jnp.where(crowded, _CROWDED, _DRIFTED))
    ended = success | empty | crowded | drifted
    bonus = jnp.where(success, _SUCCESS, jnp.where(ended, bad, 0.0))
    return ended, bonus, success


def _observation(state: DurotaxisState) -> Float[Array, "14"]:
    """Return what the agent sees, every entry of order one."""
    alive, chosen = state.alive, state.chosen
    number = _count(alive).astype(jnp.float32)
    x, y = state.x / _WIDTH, state.y / _HEIGHT
    mean_x, mean_y = _mean(x, alive), _mean(y, alive)
    first = jnp.min(jnp.where(alive, x, 1.0))
    last = jnp.max(jnp.where(alive, x, 0.0))
    first_marked = jnp.min(jnp.where(chosen, x, 1.0))
    return jnp.stack(
        [
            number / _MOST,
            (number > _CRITICAL).astype(jnp.float32),
            mean_x,
            mean_y,
            jnp.sqrt(_mean((x - mean_x) ** 2, alive) + 1e-12),
            jnp.sqrt(_mean((y - mean_y) ** 2, alive) + 1e-12),
            first,
            last,
            _mean((state.age > _OLD).astype(jnp.float32), alive),
            _mean(chosen.astype(jnp.float32), alive),
            # How much must go before the first marked node does.
            _mean((x < first_marked).astype(jnp.float32), alive),
            state.moved / 10.0,
            state.drifts.astype(jnp.float32) / _DRIFTS,
            state.time.astype(jnp.float32) / _HORIZON,
        ]
    )


def _count(mask: Array) -> Int[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def _mean(x: Array, mask: Array) -> Float[Array, ""]:
    total = jnp.sum(jnp.where(mask, x, 0.0))
    return total / jnp.maximum(_count(mask).astype(jnp.float32), 1.0)


def _balance(mask: Array, right: Array) -> Float[Array, ""]:
    """Return how many of ``mask`` are right less how many are not."""
    return jnp.sum(jnp.where(mask, jnp.where(right, 1.0, -1.0), 0.0))


def _before(x: Array, mask: Array) -> Int[Array, " nodes"]:
    """Return how many of ``mask`` come before each entry; the first of equals wins.

    Compared all with all: on 64 nodes that is faster than a sort.
    """
    place = jnp.arange(x.shape[0])
    ahead = (x[None, :] < x[:, None]) | (
        (x[None, :] == x[:, None]) & (place[None, :] < place[:, None])
    )
    return jnp.sum(ahead & mask[None, :], axis=1, dtype=jnp.int32)


def _draw(axes: Any, state: DurotaxisState) -> None:
    from stabjax.models.drawing import RULE, SERIES

    alive, chosen = np.asarray(state.alive), np.asarray(state.chosen)
    x, y = np.asarray(state.x), np.asarray(state.y)
    for band in range(6):  # darker where the ground is stiffer
        axes.axvspan(100 * band, 100 * band + 100, color=RULE, alpha=0.15 * (band + 1))
    for nodes, color in ((alive & ~chosen, SERIES[0]), (alive & chosen, SERIES[1])):
        axes.plot(x[nodes], y[nodes], "o", color=color, markersize=2.5)
    axes.axvline(_RIGHT, color=SERIES[2], linewidth=2)
    axes.set_xlim(0.0, _WIDTH)
    axes.set_ylim(0.0, _HEIGHT)
    axes.set_aspect("equal")
