"""Strict settings for every test: shapes checked, ranks and random keys guarded."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight virtual devices, so that sharding is tested on any machine; on two busy cores
# they wait for each other longer than the 40 s after which XLA aborts.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)

import gc

import hypothesis
import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("stabjax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs are kept, for the other worker and the next run, however small they
# are: most of the suite's time is XLA.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("STABJAX_TEST_CACHE", "/tmp/stabjax-test-cache"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

WITH_KEYS = {"loss_transforms", "losses", "models", "run"}
# Here a law is tried in the form for CPU by default, and in that for a GPU in the slow
# stage; in `core` and of the train step both are tried by default.
ONE_FORM = {"everywhere", "field", "guards", "transforms"}

# XLA compiles inside the first example, so wall-clock deadlines mean nothing.
hypothesis.settings.register_profile("stabjax", deadline=None, max_examples=25)
hypothesis.settings.load_profile("stabjax")


def pytest_itemcollected(item):
    """Leave the select form of most tests to the slow stage."""
    form = getattr(item, "callspec", None) and item.callspec.params.get("form")
    if form == "select" and ONE_FORM & set(item.path.parts):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the optimized tests of each module last: to change over costs time."""
    first = {}
    for place, item in enumerate(items):
        first.setdefault(item.path, place)
    optimized = lambda item: item.get_closest_marker("optimized") is not None
    items.sort(key=lambda item: (first[item.path], optimized(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compile the programs of the test and of its fixtures in haste, or not."""
    # Imported here, after the settings above.
    from haste import compile_in_haste

    compile_in_haste(item.get_closest_marker("optimized") is None)


@pytest.fixture(scope="module", autouse=True)
def keys_are_used_once(request):
    """Watch over random keys where there are some: each call in Python takes longer."""
    with jax.debug_key_reuse(bool(WITH_KEYS & set(request.path.parts))):
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """Forget the programs of a module after it: each holds about a megabyte."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def assert_ulps():
    """Compare with a float64 oracle in units of the last place."""
    # Imported here, after the settings above.
    from oracle import assert_ulps

    return assert_ulps
