"""Groups of parameters named by path prefixes."""

import difflib
from collections.abc import Sequence

from stabjax.types import Layout

REST = "rest"


def checked(
    function: str, groups: Sequence[str], argument: str = "groups"
) -> tuple[str, ...]:
    """Return ``groups`` if they are distinct path prefixes, else raise."""
    if isinstance(groups, str) or not all(isinstance(g, str) and g for g in groups):
        raise ValueError(
            f"{function}: {argument} must be a list of path prefixes, got {groups!r}."
        )
    if len(set(groups)) != len(groups) or REST in groups:
        raise ValueError(
            f"{function}: {argument} must be distinct and not {REST!r}, got {groups!r}."
        )
    return tuple(groups)


def members(
    function: str, layout: Layout, prefixes: tuple[str, ...]
) -> tuple[int, ...]:
    """Return the group of each leaf; raise for a prefix that fits none."""
    found = layout.members(prefixes)
    for index, prefix in enumerate(prefixes):
        if index not in found:
            known = {leaf.rsplit("/", n)[0] for leaf in layout.leaves for n in range(3)}
            near = difflib.get_close_matches(prefix, sorted(known), n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{function}: no parameter lies under {prefix!r}.{hint}")
    return found
