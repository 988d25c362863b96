"""What guards share that count steps in a row."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.types import Count, Flag, Scalar

OnExhausted = Literal["halt", "roll_back", "accept"]
ON_EXHAUSTED: tuple[str, ...] = ("halt", "roll_back", "accept")

# Every second step refused is trouble although no streak forms; two of five are not.
MAX_SHARE = 0.45
SHARE_WINDOW = 150


class Refusal(NamedTuple):
    """What follows from a bad step, see `refusal`.

    Attributes:
        streak: Bad steps in a row [steps].
        halt: The streak is exhausted, and then it halts.
        roll_back: The streak is exhausted, and then it rolls back.
        give_in: The streak is exhausted, and the step is bad but let through.
    """

    streak: Count
    halt: Flag
    roll_back: Flag
    give_in: Flag


def refusal(
    streak: Count,
    bad: Flag,
    *,
    ends: Flag,
    max_consecutive: int,
    on_exhausted: str,
) -> Refusal:
    """Count bad steps in a row and say how the streak ends.

    Args:
        streak: Bad steps in a row before this one.
        bad: Whether this step is bad.
        ends: Whether it ends a streak; a step may be neither, such as one that
            could not be measured.
        max_consecutive: Bad steps in a row that exhaust the patience: with
            ``"halt"`` and ``"roll_back"`` the last of them acts; with ``"accept"``
            they are refused, and those after them are not.
        on_exhausted: One of `ON_EXHAUSTED`.

    Returns:
        The new streak and what to do.
    """
    streak = jnp.where(ends, 0, count_where(streak, bad))
    exhausted = bad & (streak >= max_consecutive)
    never = jnp.zeros((), jnp.bool_)
    if on_exhausted == "halt":
        return Refusal(streak, exhausted, never, never)
    if on_exhausted == "roll_back":
        # A new streak starts from the restored state.
        return Refusal(jnp.where(exhausted, 0, streak), never, exhausted, never)
    return Refusal(streak, never, never, bad & (streak > max_consecutive))


def lasting(
    streak: Count, outside: Flag, measured: Flag, patience: int
) -> tuple[Count, Flag]:
    """Count steps outside in a row and say whether they are enough.

    Args:
        streak: Steps outside in a row before this one.
        outside: Whether this one is.
        measured: Whether there is anything to judge; if not, nothing changes.
        patience: Steps in a row that are enough, >= 1.

    Returns:
        The new streak, and whether this step completes or prolongs one that is
        long enough.
    """
    outside = measured & outside
    streak = jnp.where(measured & ~outside, 0, count_where(streak, outside))
    return streak, outside & (streak >= patience)


def moved_share(share: Scalar, bad: Flag, window: int) -> Scalar:
    """Return the share of bad steps among about the last ``window``.

    ``share + (bad - share) / window``, from zero. Where every second step is bad it is
    0.45 after 2.3 windows.
    """
    return share + (bad.astype(jnp.float32) - share) / window
