"""Programs of tests compiled in haste: compilation is most of the suite's time.

A law about decisions, states and structure holds whichever way a program is compiled.
So the default suite leaves out what makes programs fast: the optimizations of LLVM and
the emitters of fusions. What is said of rounding, of bytes and of the text of programs
is tested on programs as users compile them: those tests are marked ``optimized``, and
with ``STABJAX_TEST_HASTE=0``, as in the slow stage, every test is of that kind.
"""

import functools
import os
from typing import Any

import jax

# Nothing public gives options to every program that is compiled.
from jax._src import compiler

WANTED = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    # Small programs are not worth a thread for each of their parts.
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_llvm_force_inline_before_split": False,
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
}
AS_USERS_DO = compiler.get_compile_options


@functools.cache
def known_options() -> dict[str, Any]:
    """Return those of the options that this version of XLA has."""

    def is_known(name: str) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: WANTED[name]}).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: WANTED[name] for name in WANTED if is_known(name)}


@functools.wraps(AS_USERS_DO)
def _hasty(*args: Any, env_options_overrides: Any = None, **options: Any) -> Any:
    chosen = known_options() | dict(env_options_overrides or {})
    return AS_USERS_DO(*args, env_options_overrides=chosen, **options)


def compile_in_haste(wanted: bool) -> None:
    """Compile what comes next in haste or as users do; forget what was compiled."""
    allowed = os.environ.get("STABJAX_TEST_HASTE", "1") != "0"
    on_cpu = jax.default_backend() == "cpu"
    known_options()  # found out while programs are still compiled as users do
    chosen = _hasty if wanted and allowed and on_cpu else AS_USERS_DO
    if compiler.get_compile_options is not chosen:
        jax.clear_caches()
        compiler.get_compile_options = chosen
