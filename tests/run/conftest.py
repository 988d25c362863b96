import pytest
from line_config import LINE

import stabjax.models
from stabjax.config import loads


@pytest.fixture(scope="module", autouse=True)
def _line_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stabjax.models.MODELS, "line", "line_model")
        yield


@pytest.fixture
def config_of():
    return lambda *overrides: loads(LINE, overrides, source="line.yaml")
