import pytest

from stabjax.run.page_numbers import Cell
from stabjax.run.page_reading import read_figures
from stabjax.run.page_records import read_run


def read(make_run, tmp_path, *arms: str, steps: int = 700) -> str:
    runs = {
        arm: [read_run(make_run(tmp_path / arm / f"seed{k}", arm, steps=steps, seed=k))
              for k in range(2)]
        for arm in arms
    }  # fmt: skip
    return "\n".join(read_figures(runs, {}))


def test_a_loss_that_runs_away_is_told_with_its_extreme(make_run, tmp_path):
    text = read(make_run, tmp_path, "before")
    assert "before: raw/mcmc reached \N{MINUS SIGN}" in text
    assert "before: the loss was not finite on" in text


def test_a_clamp_that_kills_the_gradient_is_told(make_run, tmp_path):
    text = read(make_run, tmp_path, "seed")
    assert "weighted/mcmc sat at exactly \N{MINUS SIGN}10 on" in text
    assert "its gradient is zero" in text


def test_a_sound_arm_is_not_accused(make_run, tmp_path):
    text = read(make_run, tmp_path, "sound")
    assert "reached" not in text
    assert "sat at exactly" not in text
    assert "not finite" not in text


def test_what_holds_for_every_arm_is_said_once(make_run, tmp_path):
    text = read(make_run, tmp_path, "seed", "sound", steps=60)
    assert text.count("raw/dyn stayed at 0.100 on every step") == 1
    assert "all arms: raw/dyn" in text


def test_a_linear_weight_is_not_taken_for_a_clamp(make_run, tmp_path):
    text = read(make_run, tmp_path, "sound", steps=400)
    assert "weighted/ce" not in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": (0.1, 0.2), "b": (0.3, 0.4)}, "do not overlap"),
        ({"a": (0.1, 0.3), "b": (0.2, 0.4)}, "do not tell the arms apart"),
        ({"a": (0.1,), "b": (0.2,)}, "spread between seeds is not known"),
        ({"a": (0.2, 0.2), "b": (0.1, 0.3)}, "the same median"),
    ],
)
def test_the_evaluation_is_judged_by_the_ranges_over_seeds(row, said):
    cells = {arm: Cell(values, (0,) * len(values)) for arm, values in row.items()}
    sentences = read_figures({}, {"match": cells})
    assert len(sentences) == 1
    assert said in sentences[0]


def test_an_arm_without_any_figure_says_nothing(tmp_path):
    sentences = read_figures(
        {"a": [read_run(tmp_path)]}, {"match": {"a": Cell((), ())}}
    )
    assert sentences == ["a: 1 of 1 seeds did not end well (no step recorded)."]
