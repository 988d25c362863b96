"""Loops as people write them: flax's nnx and TrainState, and schedule-free averages."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from flax.training import train_state

from harm.run import OwnLoop, jit_quickly
from harm.runs.data import Data, digits, drawn, teacher
from harm.runs.models import classify, cross_entropy, mlp

STEPS = 600

Wrap = Callable[[optax.GradientTransformation], Any]
Damage = Callable[[Any, jax.Array], Any]


class Program(Protocol):
    """One compiled loop."""

    def __call__(self, key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        """Return the score and the final states of the optimizers."""
        ...


def looped(
    build: Callable[[Wrap, Damage], Program],
    seeded: Callable[[int], Any],
    data: Callable[[int], Any],
) -> Callable[[Wrap, int, Damage], tuple[float, list]]:
    """Return the ``run`` of an `OwnLoop`.

    Args:
        build: ``(wrap, damage) -> program(key, seeded(seed), data(seed))``.
        seeded: What is drawn on the host: the first parameters.
        data: Batches and what the score is measured on.
    """

    @functools.lru_cache(maxsize=2)
    def compiled(wrap: Wrap, damage: Damage) -> Callable[..., Any]:
        return jit_quickly(build(wrap, damage))

    def run(wrap: Wrap, seed: int, damage: Damage) -> tuple[float, list]:
        program = compiled(wrap, damage)
        score, states = program(jax.random.key(seed), seeded(seed), data(seed))
        return float(score), list(states)

    return run


def counted(batches: Any) -> tuple[Any, jax.Array]:
    """Return batches with the number of each step, to be scanned over."""
    return batches, jnp.arange(len(jax.tree.leaves(batches)[0]))


def digit_data(seed: int) -> tuple[Data, Data]:
    """Return 600 batches of 32 digits and the digits held out."""
    return drawn(digits()[0], STEPS, 32, seed), digits()[1]


class Net(nnx.Module):
    """A normalized hidden layer of 32, on digits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits, (n, 64) -> (n, 10)."""
        return self.out(jax.nn.gelu(self.norm(self.hidden(x))))


def nnx_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return a loop of `nnx.Optimizer`, which forwards the loss by name."""

    def loss_of(net: Net, batch: Any) -> jax.Array:
        return jnp.mean(cross_entropy(net(batch["x"]), batch["y"]))

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        del seed
        batches, held_out = data
        net = Net(nnx.Rngs(key))
        schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, 30, STEPS)
        optimizer = nnx.Optimizer(net, wrap(optax.adamw(schedule)), wrt=nnx.Param)
        graph, start = nnx.split((net, optimizer))

        def step(state: Any, numbered: Any) -> tuple[Any, None]:
            net, optimizer = nnx.merge(graph, state)
            loss, gradients = nnx.value_and_grad(loss_of)(net, damage(*numbered))
            optimizer.update(net, gradients, value=loss)
            return nnx.state((net, optimizer)), None

        state, _ = jax.lax.scan(step, start, counted(batches))
        net, optimizer = nnx.merge(graph, state)
        return loss_of(net, held_out), [nnx.as_pure(optimizer.opt_state)]

    return program


class Dense(linen.Module):
    """A tanh network with one hidden layer of 32."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the outputs, (n, 8) -> (n, 1)."""
        return linen.Dense(1)(jnp.tanh(linen.Dense(32)(x)))


class State(train_state.TrainState):
    """A train state whose optimizer is told the loss."""

    def apply_gradients(self, *, grads: Any, value: jax.Array) -> "State":
        """Return the state after one update."""
        update: Any = self.tx.update
        updates, opt_state = update(grads, self.opt_state, self.params, value=value)
        return self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            opt_state=opt_state,
        )


def train_state_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return a loop of flax's TrainState."""
    net = Dense()
    schedule = optax.cosine_decay_schedule(0.1, STEPS)
    optimizer = wrap(optax.sgd(schedule, momentum=0.9, nesterov=True))

    def loss_of(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((net.apply(params, batch["x"]) - batch["y"]) ** 2)

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        del seed
        batches, held_out = data
        params = net.init(key, held_out["x"][:1])
        start = State.create(apply_fn=net.apply, params=params, tx=optimizer)
        start = start.replace(step=jnp.zeros((), jnp.int32))

        def step(state: State, numbered: Any) -> tuple[State, None]:
            batch = damage(*numbered)
            loss, gradients = jax.value_and_grad(loss_of)(state.params, batch)
            return state.apply_gradients(grads=gradients, value=loss), None

        state, _ = jax.lax.scan(step, start, counted(batches))
        return loss_of(state.params, held_out), [state.opt_state]

    return program


def schedule_free_loop(wrap: Wrap, damage: Damage) -> Program:
    """Return a loop that is scored at the average of schedule-free SGD."""
    optimizer = wrap(optax.contrib.schedule_free_sgd(1.0, warmup_steps=30))

    def loss_of(params: Any, batch: Any) -> jax.Array:
        return classify(params, batch, None)[0]

    def program(key: jax.Array, seed: Any, data: Any) -> tuple[Any, list]:
        del key
        batches, held_out = data

        def step(carry: Any, numbered: Any) -> tuple[Any, None]:
            params, state = carry
            batch = damage(*numbered)
            loss, gradients = jax.value_and_grad(loss_of)(params, batch)
            updates, state = optimizer.update(gradients, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), None

        start = seed, optimizer.init(seed)
        (params, state), _ = jax.lax.scan(step, start, counted(batches))
        inner = optax.tree.get(state, "ScheduleFreeState")
        average = optax.contrib.schedule_free_eval_params(inner, params)
        return loss_of(average, held_out), [state]

    return program


def nothing(seed: int) -> int:
    """Return what a loop is given that draws its parameters itself."""
    return seed


RUNS = (
    OwnLoop(
        name="nnx_digits_adamw_warm_up",
        kind="own loop",
        steps=STEPS,
        run=looped(nnx_loop, nothing, digit_data),
    ),
    OwnLoop(
        name="train_state_teacher_nesterov",
        kind="own loop",
        steps=STEPS,
        run=looped(
            train_state_loop,
            nothing,
            lambda seed: (drawn(teacher()[0], STEPS, 32, seed), teacher()[1]),
        ),
    ),
    OwnLoop(
        name="schedule_free_sgd_average",
        kind="schedule-free",
        steps=STEPS,
        run=looped(schedule_free_loop, mlp(64, 32, 10, gain=1.4), digit_data),
    ),
)
