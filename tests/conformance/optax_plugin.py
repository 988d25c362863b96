"""A pytest plugin that puts our functions in place of optax's before collection.

What is replaced, and how often each was called, is written to the file that
``STABJAX_OPTAX_REPORT`` names, with the outcome of every test.
"""

import collections
import functools
import inspect
import json
import os
import sys

import optax
import optax.contrib
import optax_adapters

REPLACEMENTS = {
    "functions": optax_adapters.REPLACED,
    "optimizers": optax_adapters.FOLDED,
}[os.environ.get("STABJAX_OPTAX_REPLACE", "functions")]

calls: collections.Counter[str] = collections.Counter()
outcomes: dict[str, str] = {}


def counted(name, replacement):
    """Return the replacement, counting how often it is called."""
    if inspect.isclass(replacement):

        class Counted(replacement):
            def __init__(self, *args, **kwargs):
                calls[name] += 1
                super().__init__(*args, **kwargs)

        return Counted

    @functools.wraps(replacement)
    def call(*args, **kwargs):
        calls[name] += 1
        return replacement(*args, **kwargs)

    return call


def replace(name, replacement):
    """Put ``replacement`` wherever a module of optax holds the original."""
    home = optax.contrib if name == "reduce_on_plateau" else optax
    original, ours = getattr(home, name), counted(name, replacement)
    for module in list(sys.modules.values()):
        if not getattr(module, "__name__", "").startswith("optax."):
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, ours)
    # Ours are built from those of optax, which they find at the top.
    if REPLACEMENTS is not optax_adapters.FOLDED:
        setattr(home, name, ours)


for name, replacement in REPLACEMENTS.items():
    replace(name, replacement)


def pytest_runtest_logreport(report):
    """Note the outcome of each test; a subtest that fails fails its test."""
    if report.failed:
        outcomes[report.nodeid] = "failed"
    elif report.when == "call" or report.skipped:
        outcomes.setdefault(report.nodeid, report.outcome)


def pytest_sessionfinish(session):
    """Write what was called and what came of it."""
    del session
    with open(os.environ["STABJAX_OPTAX_REPORT"], "w") as file:
        json.dump({"calls": calls, "outcomes": outcomes}, file)


def is_about_ours(item):
    """Return whether a test of many optimizers is about one that is replaced."""
    told = str(getattr(item.obj, "__x_params_repr__", ""))
    if REPLACEMENTS is optax_adapters.FOLDED:
        named = [f"opt_name='{name}'" for name in REPLACEMENTS]
        named += [f"'opt_name': '{name}'" for name in REPLACEMENTS]
        return any(name in told for name in named)
    if item.path.name == "_common_test.py":
        return "reduce_on_plateau" in told or "gradient_accumulation" in item.name
    return True


def pytest_collection_modifyitems(config, items):
    """Leave out the optimizers that stay as they are."""
    left_out = [item for item in items if not is_about_ours(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if is_about_ours(item)]
