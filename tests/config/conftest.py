import pytest

import stabjax.guards
import stabjax.models


def limit(*, bound: float = 1.0, parts: tuple[str, ...] = ()):
    if bound <= 0:
        raise ValueError(f"limit: bound must be > 0, got {bound}.")
    return bound, parts


@pytest.fixture(autouse=True)
def _toy_registries(monkeypatch):
    monkeypatch.setitem(stabjax.models.MODELS, "toy", "config_model")
    monkeypatch.setattr(stabjax.guards, "GUARDS", {"limit": limit}, raising=False)
