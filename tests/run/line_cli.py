"""The command line with the line model registered; run as a program by the tests.

With DIE_AT=n in the environment the process dies, as by kill -9, at the n-th call that
makes something durable.
"""

import itertools
import os
import pathlib
import sys

import stabjax.models
from stabjax.cli import main

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
stabjax.models.MODELS["line"] = "line_model"
calls = itertools.count(1)


def dying(function):
    def call(*args, **kwargs):
        if next(calls) == int(os.environ["DIE_AT"]):
            os._exit(9)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    if "DIE_AT" in os.environ:
        for name in ("fsync", "replace", "rename", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
    sys.exit(main())
