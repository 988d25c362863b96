from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from stabjax.config.bind import bind, signature_schema
from stabjax.config.errors import ConfigError


def clip(
    *,
    max_norm: float,
    mode: Literal["hard", "soft"] = "hard",
    groups: Sequence[str] = (),
    patience: int = 3,
    strict: bool = False,
    floor: float | None = None,
    hook: Callable[..., Any] | None = None,
):
    if max_norm <= 0:
        raise ValueError(f"clip: max_norm must be > 0, got {max_norm}.")
    return max_norm, mode, tuple(groups), patience, strict, floor, hook


REGISTRY = {"clip": clip}


def test_options_and_defaults_reach_the_factory():
    built = bind(REGISTRY, {"kind": "clip", "max_norm": 2, "groups": ["a", "b"]})
    assert built == (2.0, "hard", ("a", "b"), 3, False, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_nrom": 1.0}, "guards.0.max_norm is missing|did you mean 'max_norm'"),
        ({"max_norm": 1.0, "max_nrom": 1.0}, "max_nrom.*did you mean 'max_norm'"),
        ({}, "guards.0.max_norm is missing"),
        ({"max_norm": True}, "guards.0.max_norm must be a valid number, got True"),
        ({"max_norm": "1"}, "guards.0.max_norm must be a valid number, got '1'"),
        ({"max_norm": float("nan")}, "guards.0"),
        ({"max_norm": None}, "guards.0.max_norm"),
        ({"max_norm": 1, "mode": "sotf"}, "guards.0.mode must be 'hard' or 'soft'"),
        ({"max_norm": 1, "groups": "core"}, "guards.0.groups"),
        ({"max_norm": 1, "groups": [1]}, "guards.0.groups.0"),
        ({"max_norm": 1, "patience": 1.5}, "guards.0.patience"),
        ({"max_norm": 1, "patience": True}, "guards.0.patience"),
        ({"max_norm": 1, "strict": 1}, "guards.0.strict"),
        ({"max_norm": 1, "hook": "print"}, "guards.0.hook is not an option"),
        ({"max_norm": -1}, "guards.0: clip: max_norm must be > 0, got -1.0"),
    ],
)
def test_a_wrong_option_names_its_path_and_value(options, message):
    with pytest.raises(ConfigError, match=rf"f\.yaml: .*({message})"):
        bind(REGISTRY, {"kind": "clip", **options}, source="f.yaml", path="guards.0")


@pytest.mark.parametrize("entry", [None, 3, [], "clip", {}, {"kind": 3}])
def test_an_entry_without_a_kind_is_refused(entry):
    with pytest.raises(ConfigError, match="valid: clip"):
        bind(REGISTRY, entry)


def test_a_misspelled_kind_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'clip'"):
        bind(REGISTRY, {"kind": "clpi"})


def test_whatever_a_factory_raises_becomes_a_configuration_error():
    def broken(*, a: int = 0):
        raise KeyError("inside")

    with pytest.raises(ConfigError, match="inside"):
        bind({"broken": broken}, {"kind": "broken"})


def test_arguments_given_by_the_caller_are_no_options():
    def wrap(inner: Any, *, factor: float = 2.0):
        return inner, factor

    assert bind({"wrap": wrap}, {"kind": "wrap"}, inner="x") == ("x", 2.0)
    assert list(signature_schema(wrap, ("inner",)).model_fields) == ["factor"]
