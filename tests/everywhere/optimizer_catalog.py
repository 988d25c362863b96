"""Every optimizer that optax offers, found by its signature, and what each needs."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

RATE = 0.01
# They take a rate and yet are links of a chain, not optimizers.
LINKS = {"scale_by_learning_rate", "scale_by_rprop", "scale_by_madgrad"}


def params_with_a_scalar() -> dict[str, jax.Array]:
    """Return a matrix and a scalar."""
    kernel = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
    return {"kernel": jnp.asarray(kernel), "scale": jnp.asarray(np.float32(2.0))}


def params_without_a_scalar() -> dict[str, jax.Array]:
    """Return the matrix alone, for an optimizer that knows no scalars."""
    return {"kernel": params_with_a_scalar()["kernel"]}


class Entry(NamedTuple):
    """One optimizer and the calls it needs.

    Attributes:
        make: ``() -> optimizer``.
        params: ``() -> parameters``.
        extra: ``gradients -> extra arguments`` besides ``value``.
        per_example: Whether gradients have a leading axis of examples.
        in_train_step: Whether `make_train_step` can run it: it passes ``value``, and
            the gradient of the mean.
    """

    make: Callable[[], Any]
    params: Callable[[], Any] = params_with_a_scalar
    extra: Callable[[Any], dict[str, Any]] = lambda gradients: {}
    per_example: bool = False
    in_train_step: bool = True


def objective(tree: Any) -> jax.Array:
    """Return half the squared distance of every parameter from 0.3."""
    halves = [0.5 * jnp.sum(jnp.square(x - 0.3)) for x in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(halves))


def clean(params: Any) -> Any:
    """Return what is added to the gradient of a clean step."""
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)


def with_nan(params: Any) -> Any:
    """Return what makes one element of the gradient NaN."""
    noise = clean(params)
    noise["kernel"][2, 1] = np.nan
    return noise


def discover(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the public functions of a module that take a learning rate."""
    public = {n: getattr(module, n) for n in dir(module) if not n.startswith("_")}
    functions = {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function) or isinstance(function, functools.partial)
    }
    return {
        name: function
        for name, function in functions.items()
        if "learning_rate" in inspect.signature(function).parameters
        and name not in LINKS
    }


def _sgd() -> optax.GradientTransformation:
    return optax.sgd(RATE, momentum=0.9)


def _schedule() -> optax.Schedule:
    return optax.linear_schedule(RATE, 0.0, 10)


def _kinds(tree: Any) -> dict[str, str]:
    return {name: "sgd" if name == "scale" else "adam" for name in tree}


def _partition() -> optax.GradientTransformation:
    return optax.partition({"adam": optax.adam(RATE), "sgd": _sgd()}, _kinds)


def _sam() -> optax.GradientTransformation:
    away = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    # It says that it takes extra arguments and then does not.
    return optax.GradientTransformation(*optax.contrib.sam(_sgd(), away))


# Those that a learning rate is not enough for, and wrappers of another optimizer.
SPECIAL: dict[str, Entry] = {
    "optax.lbfgs": Entry(
        lambda: optax.lbfgs(RATE),
        extra=lambda gradients: {"grad": gradients, "value_fn": objective},
        in_train_step=False,
    ),
    "optax.noisy_sgd": Entry(lambda: optax.noisy_sgd(RATE, key=jax.random.key(3))),
    "optax.polyak_sgd": Entry(optax.polyak_sgd),
    "optax.sm3": Entry(lambda: optax.sm3(RATE), params=params_without_a_scalar),
    "optax.contrib.dpsgd": Entry(
        lambda: optax.contrib.dpsgd(RATE, 1.0, 0.1, 0),
        per_example=True,
        in_train_step=False,
    ),
    "optax.contrib.galore": Entry(lambda: optax.contrib.galore(RATE, rank=2)),
    "optax.contrib.mechanize": Entry(lambda: optax.contrib.mechanize(_sgd())),
    "optax.contrib.normalize": Entry(
        lambda: optax.chain(optax.contrib.normalize(), _sgd())
    ),
    "optax.contrib.reduce_on_plateau": Entry(
        lambda: optax.chain(_sgd(), optax.contrib.reduce_on_plateau(patience=1))
    ),
    "optax.contrib.sam": Entry(_sam),
    "optax.contrib.schedule_free": Entry(
        lambda: optax.contrib.schedule_free(_sgd(), RATE)
    ),
    "optax.contrib.sophia": Entry(
        lambda: optax.contrib.sophia(RATE),
        extra=lambda gradients: {"obj_fn": objective},
        in_train_step=False,
    ),
    "optax.contrib.split_real_and_imaginary": Entry(
        lambda: optax.contrib.split_real_and_imaginary(_sgd())
    ),
}

# What optax puts around an optimizer, or in front of it.
WRAPPED: dict[str, Entry] = {
    "apply_every": Entry(lambda: optax.chain(_sgd(), optax.apply_every(2))),
    "apply_if_finite": Entry(lambda: optax.apply_if_finite(_sgd(), 1)),
    "chain with a schedule": Entry(
        lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(_schedule()))
    ),
    "inject_hyperparams": Entry(
        lambda: optax.inject_hyperparams(optax.adamw)(_schedule(), b1=0.8)
    ),
    "masked": Entry(
        lambda: optax.chain(
            optax.masked(optax.add_decayed_weights(0.1), {"kernel": 1, "scale": 0}),
            _sgd(),
        )
    ),
    "MultiSteps": Entry(lambda: optax.MultiSteps(_sgd(), 2).gradient_transformation()),
    "multi_transform": Entry(
        lambda: optax.multi_transform(
            {"adam": optax.adam(RATE), "sgd": optax.set_to_zero()}, _kinds
        )
    ),
    "named_chain": Entry(
        lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sgd", _sgd()))
    ),
    "partition": Entry(_partition),
    "selective_transform": Entry(
        lambda: optax.selective_transform(
            _sgd(), freeze_mask={"kernel": False, "scale": True}
        )
    ),
}


@functools.cache
def catalog() -> dict[str, Entry]:
    """Return every optimizer of optax and of optax.contrib, and what wraps them."""
    found = {
        f"{module.__name__}.{name}": Entry(functools.partial(function, RATE))
        for module in (optax, optax.contrib)
        for name, function in discover(module).items()
    }
    return dict(sorted((found | SPECIAL | WRAPPED).items()))
