import json
import math

import jax
import numpy as np
import pytest

from stabjax.config import ConfigError
from stabjax.config.schema import EarlyStopping
from stabjax.run import train
from stabjax.run.early_stopping import Improvement
from stabjax.run.page_comparison import ended
from stabjax.run.page_events import outcome
from stabjax.run.page_reading import read_figures
from stabjax.run.page_records import read_run

STOP = "train.early_stopping={score: distance, patience: 2, min_delta: 0.05}"


def seen(scores, **settings):
    improvement = Improvement(EarlyStopping(score="s", **settings))
    for count, score in enumerate(scores, 1):
        improvement.see({"s": float(score)})
        if improvement.exhausted:
            return count
    return None


@pytest.mark.parametrize(
    ("scores", "settings", "ends"),
    [
        ([3, 2, 1, 0, -1, -2], {"patience": 1}, None),
        ([1, 2, 2, 2], {"patience": 3}, 4),
        ([1, 2, 0.5, 2, 2], {"patience": 2}, 5),
        ([1, 2, 3, 3, 3], {"patience": 2, "mode": "max"}, 5),
        ([1.0, 0.99, 0.98], {"patience": 2, "min_delta": 0.1}, 3),
        ([math.nan, math.nan], {"patience": 2}, 2),
        ([math.nan, 1.0, math.nan, 0.5, 0.4], {"patience": 2}, None),
        ([math.inf, -math.inf, 1.0], {"patience": 3}, None),
    ],
)
def test_it_ends_after_so_many_evaluations_without_a_better_one(scores, settings, ends):
    assert seen(scores, **settings) == ends


def test_a_run_ends_early_and_says_so(config_of, tmp_path):
    config = config_of("train.steps=400", "train.evaluate_every=10", STOP)
    result = train(config, tmp_path / "a", progress=False)
    assert 40 <= result.steps < 400
    assert result.steps % 10 == 0
    facts = json.loads((result.folder / "run.json").read_text())
    assert (facts["outcome"], facts["early"]) == ("finished", True)
    run = read_run(result.folder)
    assert outcome(run) == f"finished early after {result.steps} of 400 steps"
    assert ended([("0", run), ("1", run)]) == "finished, 2 of 2 early"
    (sentence, *_) = read_figures({"a": [run]}, {})
    assert sentence == (
        "a: 1 of 1 seeds stopped once their score no longer improved "
        f"(early after {result.steps} of 400 steps)."
    )


def test_an_interrupted_run_ends_at_the_same_step(config_of, tmp_path):
    options = ["train.evaluate_every=10", "train.checkpoint_every=10", STOP]
    long = config_of("train.steps=400", *options)
    whole = train(long, tmp_path / "a", progress=False)
    half = whole.steps // 20 * 10
    train(config_of(f"train.steps={half}", *options), tmp_path / "b", progress=False)
    rest = train(long, tmp_path / "b", progress=False)
    assert rest.steps == whole.steps
    for left, right in zip(
        *map(jax.tree.leaves, (rest.state, whole.state)), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_finished_early_run_is_left_as_it_is(config_of, tmp_path):
    config = config_of("train.steps=400", "train.evaluate_every=10", STOP)
    first = train(config, tmp_path / "a", progress=False)
    again = train(config, tmp_path / "a", progress=False)
    assert again.steps == first.steps


def test_a_score_the_model_lacks_is_an_error_that_names_the_nearest(
    config_of, tmp_path
):
    stop = "train.early_stopping={score: distanse, patience: 2}"
    config = config_of("train.evaluate_every=10", stop)
    with pytest.raises(ConfigError, match=r"'distanse' is not a score.*'distance'"):
        train(config, tmp_path / "a", progress=False)


def test_early_stopping_needs_evaluations(config_of):
    with pytest.raises(ConfigError, match="evaluate_every must be at least 1"):
        config_of(STOP)
