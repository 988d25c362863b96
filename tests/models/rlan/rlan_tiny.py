"""A solver small enough to compile in seconds, and the arms' settings."""

import functools

import jax
import numpy as np
from flax import nnx

from stabjax.models.modules import graph_of
from stabjax.models.rlan.build import first_parameters
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.objective import Objective, describe

TINY = {
    "width": 8, "groups": 2, "attention_heads": 1, "relative_width": 4, "clues": 2,
    "solver_steps": 1, "lora_rank": 2, "batch": 3, "demonstrations": 2, "holdouts": 1,
    "vote_palettes": 1,
}  # fmt: skip
BEFORE = {
    "logit_guard": "before", "meta_cap": "before", "equivariance": "before",
    "clue_variance": "before", "clue_saturation": "before", "lora_cap": "before",
    "cell_weights": "seed", "loo_loss": "seed", "clue_count": "seed",
}  # fmt: skip
ARMS = {"before": BEFORE, "seed": dict.fromkeys(BEFORE, "seed"), "sound": {}}
HASTY = {"xla_backend_optimization_level": 0}


def tiny(arm="sound", **changes):
    """Return a tiny configuration of an arm, changed."""
    return Config(**(TINY | ARMS[arm] | changes))


def hasty(function, **options):
    """Compile a function once and in haste; run eagerly, every operation compiles."""
    return jax.jit(function, compiler_options=HASTY, **options)


@functools.cache
def program(config):
    """Return the loss with its gradient, compiled once per configuration."""
    return hasty(jax.value_and_grad(Objective(config), has_aux=True))


@functools.cache
def parameters():
    """Return drawn parameters; no switch changes their shapes.

    Drawn by numpy: to compile the draw of every leaf takes longer than all else here.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "bias", "shift"):
            return np.full(leaf.shape, float(name == "scale"), np.float32)
        spread = leaf.shape[0] ** -0.5
        return rng.normal(0.0, spread, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(first_parameters(tiny()), jax.random.key(0))
    return jax.tree.map_with_path(draw, shapes)


def solver(config, params):
    """Return the solver with given parameters, inside a program."""
    return nnx.merge(graph_of(describe(config)), params)
