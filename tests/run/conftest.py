import pytest

import stabjax.models
from stabjax.config import loads

LINE = """
model: {name: line}
train: {steps: 40, window: 10, checkpoint_every: 20, seed: 1}
optimizer: {kind: adamw, learning_rate: 0.05}
guards: [{kind: clip_by_global_norm, max_norm: 5}, {kind: skip_nonfinite}]
"""


@pytest.fixture(autouse=True)
def _line_model(monkeypatch):
    monkeypatch.setitem(stabjax.models.MODELS, "line", "line_model")


@pytest.fixture
def config_of():
    return lambda *overrides: loads(LINE, overrides, source="line.yaml")
