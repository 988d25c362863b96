"""Programs compiled in haste: compiling takes longer than all that is run."""

import jax

HASTY = {"xla_backend_optimization_level": 0}


def in_haste(function, **options):
    """Return ``function`` jitted, without the optimizations."""
    return jax.jit(function, compiler_options=HASTY, **options)
