"""Which form of a step a test is run in, where a law is the same in all of them."""

from typing import Any

import pytest

BOTH = ("branch", "select")


def in_turn(*cases: Any, forms: tuple[str, ...] = BOTH) -> list[Any]:
    """Return each case with each form: by default with one of them, in turn.

    The other pairs are marked slow.
    """
    return [
        pytest.param(case, form, marks=() if index % len(forms) == place else SLOW)
        for index, case in enumerate(cases)
        for place, form in enumerate(forms)
    ]


def first_of(*forms: str) -> list[Any]:
    """Return the forms, all but the first marked slow."""
    return [forms[0], *(pytest.param(form, marks=SLOW) for form in forms[1:])]


SLOW = pytest.mark.slow
