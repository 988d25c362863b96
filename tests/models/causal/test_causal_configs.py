"""The shipped configurations: every arm builds, trains, and is what it says it is."""

import os
import pathlib

import numpy as np
import pytest

from stabjax.config import load
from stabjax.models.causal.dataset import load_dataset, steps_per_epoch
from stabjax.models.causal.training_log import read_training_log
from stabjax.run import train
from stabjax.run.compare_arms import arms_of

ROOT = pathlib.Path(__file__).parents[3]
NAMES = ("causal_cpu", "causal_air_quality")
FIXES = (
    "model.standardization",
    "model.evaluation",
    "model.reconstruction_weight",
    "model.sparsity_weight",
    "model.acyclicity_weight",
    "model.disentanglement_weight",
    "optimizer",
    "guards",
)


def arms(name):
    config = load(ROOT / "configs" / f"{name}.yaml")
    return {arm.name: arm for arm in arms_of(config, (0,), ablate=True)}


@pytest.mark.parametrize("name", NAMES)
def test_the_four_arms_and_every_fix_alone_are_there(name):
    found = arms(name)
    assert list(found)[:4] == ["before", "seed", "sound", "apply_if_finite"]
    base = {line.split("=")[0]: line for line in found["before"].overrides}
    seed = {line.split("=")[0]: line for line in found["seed"].overrides}
    changed = {key for key in seed if seed[key] != base.get(key)}
    assert set(FIXES) <= changed
    alone = [arm for arm in found.values() if arm.ablation]
    reached = {
        line.split("=")[0].replace("guards.0.max_norm", "guards")
        for arm in alone
        for line in arm.overrides
    }
    assert set(FIXES) <= reached


def test_the_two_files_share_their_arms():
    """All but the lengths, which follow from the epochs of their data."""
    one, other = arms("causal_cpu"), arms("causal_air_quality")

    def lines(arm):
        return [x for x in arm.overrides if not x.startswith("train.")]

    shared = set(one) & set(other)
    assert {"before", "seed", "sound", "all_but_standardization"} <= shared
    for arm in shared:
        assert lines(one[arm]) == lines(other[arm])


def test_an_epoch_is_as_long_as_the_configuration_says():
    config = arms("causal_cpu")["before"].configs[0]
    dataset = load_dataset(config.model, seed=0)
    epoch = steps_per_epoch(dataset, config.model)
    assert config.train.evaluate_every == epoch
    assert config.train.steps == 8 * epoch


@pytest.mark.slow
@pytest.mark.skipif("STABJAX_DATA" not in os.environ, reason="STABJAX_DATA is not set")
def test_air_quality_explodes_as_the_seed_says_and_standardization_ends_it():
    """The acceptance of the replay: benchmarks/causal_replay.py, table in README.md."""
    from causal_replay import replay

    names = ("before", "seed", "only_standardization", "all_but_standardization")
    logs = {arm: replay(arm, [0, 1], 5 if arm == "seed" else 1) for arm in names}
    for seed in (0, 1):
        first = {arm: log[seed][0].grad_norm for arm, log in logs.items()}
        assert 3e4 < first["before"] < 1.5e5
        assert 1.8 < first["seed"] < 3.2
        assert first["only_standardization"] < 0.5
        assert first["all_but_standardization"] > 5.0 * first["before"]
        clipped = [entry.grad_clip_ratio for entry in logs["seed"][seed]]
        assert clipped[0] >= 0.90
        assert 0.25 <= clipped[1] <= 0.55
        assert clipped[2] <= 0.10
        assert clipped[4] <= 0.02
        losses = [entry.train_loss for entry in logs["seed"][seed]]
        assert losses[0] == pytest.approx(1.05, abs=0.2)
        assert np.all(np.diff(losses) < 0.0)


@pytest.mark.slow
def test_a_table_of_ones_own_is_learned_and_its_graph_written(tmp_path):
    """By the command line's way: a file, a missing code, and the graph's files."""
    rng = np.random.default_rng(0)
    cause = rng.exponential(size=400)
    effect = 1.5 * cause + rng.exponential(size=400)
    other = 100.0 + 30.0 * rng.exponential(size=400)
    rows = [
        f"{n};{a:.4f};{b:.4f};{c:.2f}".replace(".", ",")
        for n, (a, b, c) in enumerate(zip(cause, effect, other, strict=True))
    ]
    rows[7] = "7;-999;1,5;120"
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["hour;rain;river;wind", *rows]))
    config = load(
        ROOT / "configs" / "causal_cpu.yaml",
        [
            f"model.data={{source: csv, path: {path}, separator: ';', decimal: ',', "
            "missing: [-999], columns: [rain, river, wind]}",
            "train.steps=400",
            "model.structural.stage_steps=100",
        ],
    )
    result = train(config, tmp_path / "run", progress=False)
    assert result.evaluation["edges"] == 1.0
    edges = (result.folder / "artifacts" / "graph_edges.csv").read_text().splitlines()
    assert edges[0] == "cause,effect,score"
    assert edges[1].startswith("rain,river,")
    for name in ("graph.graphml", "graph.svg"):
        assert (result.folder / "artifacts" / name).stat().st_size > 100


@pytest.mark.slow
def test_the_log_is_read_back_from_a_run_folder(tmp_path):
    config = load(
        ROOT / "configs" / "causal_cpu.yaml",
        [*arms("causal_cpu")["before"].overrides, "train.steps=242"],
    )
    result = train(config, tmp_path / "run", progress=False)
    log = read_training_log(result.folder)
    assert [entry.epoch for entry in log] == [1.0, 2.0]
    assert log[1].train_loss < log[0].train_loss
    assert [entry.grad_clip_ratio for entry in log] == [1.0, 1.0]
    # An entry that lost a key cannot be read.
    events = result.folder / "events.jsonl"
    events.write_text(events.read_text().replace('"edge_count"', '"edges_counted"'))
    with pytest.raises(KeyError, match="edge_count"):
        read_training_log(result.folder)
