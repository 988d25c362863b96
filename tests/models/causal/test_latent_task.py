"""The seed's model trained: what its log says, and what its graph hears of the data."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest

from stabjax.guards import (
    clip_by_global_norm,
    dead_gradient,
    reduce_on_plateau,
    trivial_baseline,
)
from stabjax.health import decode
from stabjax.loss_transforms import disconnected
from stabjax.models.causal import CURVES, SUMMARY, build
from stabjax.models.causal.config import Config
from stabjax.models.causal.data_gradient import DATA_GRADIENT
from stabjax.models.causal.dataset import (
    load_dataset,
    steps_per_epoch,
    training_batch,
)
from stabjax.models.causal.latent_task import first_parameters
from stabjax.models.causal.objective import GROUPS, make_loss
from stabjax.models.causal.sweep import GraphScore
from stabjax.models.causal.training_log import (
    Epoch,
    EpochClock,
    epoch_of,
    first_learning_rate,
)
from stabjax.types import Alert

SEED = {"reduction": "seed", "acyclicity": "seed", "disentanglement": "seed"}
CONFIG = Config(
    data={"nodes": 5, "rows": 120, "window": 6, "split": "seed"},
    decoder="latent",
    standardization="seed",
    evaluation="seed",
    latent=4,
    hidden=6,
    batch=15,
    epochs_between_evaluations=1,
    **SEED,
)
EPOCH = 6  # 80 training windows in batches of 15, the last one filled up
STEPS = 8 * EPOCH
RATE = 2e-2
NO_GRAPH = GraphScore(*(np.float32(0.0),) * 4)
KEY = jax.random.key(0)


def guards():
    return [
        clip_by_global_norm(max_norm=1.0),
        reduce_on_plateau(
            metric="val_shd_at_epoch",
            factor=0.5,
            patience=1,
            cooldown=1,
            accumulation_size=1,
        ),
        dead_gradient(metric="gradient/reconstruction/graph"),
        trivial_baseline(metric="shd_over_empty", baseline=1.0, patience=10),
    ]


def build_task(config=CONFIG, **changes):
    options = {
        "optimizer": optax.chain(optax.add_decayed_weights(1e-4), optax.adam(RATE)),
        "guards": guards(),
        "window": STEPS,
        "seed": 0,
    }
    return build(config, **(options | changes))


def rows_of(state):
    ring = state.telemetry
    return decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))


def in_haste(task):
    """Return the step, compiled in haste: compiling takes longer than the test."""
    hasty = {"xla_backend_optimization_level": 0}
    return jax.jit(task.train.step.__wrapped__, compiler_options=hasty)


@pytest.fixture(scope="module")
def trained():
    """Eight epochs of the seed's model, their rows and one log entry per epoch."""
    task = build_task()
    state = task.init(jax.random.key(3))
    step, log = in_haste(task), []
    for position in range(STEPS):
        state, _ = step(state, task.batch_at(position), KEY)
        if (position + 1) % EPOCH == 0:
            log.append(task.evaluate(state))
    return task, state, rows_of(state), log


def test_training_fits_the_data(trained):
    _, _, rows, log = trained
    losses = np.array([row["raw/reconstruction"] for row in rows])
    assert np.mean(losses[-EPOCH:]) < 0.5 * np.mean(losses[:EPOCH])
    assert log[-1]["val_r2"] > log[0]["val_r2"]


def test_every_shown_column_is_measured(trained):
    task, state, _, log = trained
    schema = task.train.schema(state)
    known = {*schema.floats, *schema.ints}
    shown = {s.column for s in SUMMARY if s.reduce != "eval"} | set(CURVES)
    assert shown <= known
    # The gain over the empty graph is for decoders that have a likelihood.
    shown = {s.column for s in SUMMARY if s.reduce == "eval"} - {"val_gain"}
    assert shown <= set(log[-1])


def test_the_log_has_every_key_of_the_seed_and_each_follows_from_the_rows(trained):
    _, _, rows, log = trained
    assert steps_per_epoch(load_dataset(CONFIG, seed=0), CONFIG) == EPOCH
    for number, scores in enumerate(log):
        entry = Epoch.of_scores(scores)
        here = rows[number * EPOCH : (number + 1) * EPOCH]
        assert entry.epoch == number + 1
        assert entry.train_loss == pytest.approx(np.mean([r["loss"] for r in here]))
        assert entry.train_loss_components == pytest.approx(
            {
                short: np.mean([r[f"raw/{name}"] for r in here])
                for short, name in (
                    ("recon", "reconstruction"),
                    ("sparse", "sparsity"),
                    ("acyclic", "acyclicity"),
                    ("disen", "disentanglement"),
                )
            }
        )
        clipped = [bool(r["alerts"] & Alert.CLIPPED) for r in here]
        assert entry.grad_clip_ratio == pytest.approx(np.mean(clipped))
        norms = np.array([r["grad_norm"] for r in here])
        assert entry.norm_above_one == pytest.approx(np.mean(norms > 1.0))
        assert entry.grad_norm == pytest.approx(np.mean(norms))
        assert entry.epoch_time > 0.0
    ratios = [scores["grad_clip_ratio"] for scores in log]
    assert 0.0 < ratios[0] <= 1.0
    # The graph is scored on the parameters that the epoch ended with.
    first_of_next = rows[EPOCH]
    for key in ("val_f1", "val_shd", "edge_count", "best_threshold"):
        assert log[0][key] == pytest.approx(first_of_next[key])


def test_an_entry_read_back_without_a_key_is_an_error(trained):
    scores = dict(trained[3][-1])
    for key in ("edge_count", "train_loss_components/disen"):
        with pytest.raises(KeyError, match=key):
            Epoch.of_scores({k: v for k, v in scores.items() if k != key})


def test_an_entry_without_a_column_is_an_error(trained):
    _, state, _, _ = trained
    schema = state.telemetry.schema
    renamed = tuple("other" if n == "grad_norm" else n for n in schema.floats)
    lacking = dataclasses.replace(schema, floats=renamed)
    ring = dataclasses.replace(state.telemetry, schema=lacking)
    with pytest.raises(KeyError, match="grad_norm"):
        epoch_of(
            state._replace(telemetry=ring),
            steps=EPOCH,
            guarded=True,
            rate=1.0,
            seconds=0.0,
            graph=NO_GRAPH,
        )


def test_the_plateau_steps_once_an_epoch_as_in_torch(trained):
    """`val_shd_at_epoch` has a value only where an epoch has just ended."""
    _, _, rows, log = trained
    valued = [r["step"] for r in rows if math.isfinite(r["val_shd_at_epoch"])]
    assert valued == list(range(EPOCH, STEPS, EPOCH))
    scale, best, bad, cooldown, expected = 1.0, math.inf, 0, 0, []
    for scores in log[:-1]:
        if scores["val_shd"] < best * (1.0 - 1e-4):
            best, bad = scores["val_shd"], 0
        else:
            bad += 1
        if cooldown:
            cooldown, bad = cooldown - 1, 0
        if bad > 1:
            scale, cooldown, bad = scale / 2.0, 1, 0
        expected += [scale] * EPOCH
    assert [r["update_scale"] for r in rows[EPOCH:]] == expected
    assert expected[-1] < 1.0
    assert log[-1]["learning_rate"] == pytest.approx(RATE * expected[-1], rel=1e-5)


def test_no_gradient_of_the_data_reaches_the_graph(trained):
    _, _, rows, _ = trained
    for row in rows:
        assert row[DATA_GRADIENT] == 0.0
        assert row["gradient/disentanglement/graph"] == 0.0
        assert row["gradient/sparsity/graph"] > 0.0
        assert row["gradient/reconstruction/decoder"] > 0.0


def test_the_alerts_say_so_from_the_first_step_on(trained):
    _, _, rows, log = trained
    assert all(row["alerts"] & Alert.DEAD_GRADIENT for row in rows)
    assert log[-1]["shd"] >= log[-1]["empty_shd"]
    assert rows[-1]["alerts"] & Alert.TRIVIAL


def test_the_pairs_without_gradient_are_known_before_training():
    dataset = load_dataset(CONFIG, seed=0)
    params = jax.eval_shape(first_parameters(CONFIG, 5), KEY)
    batch = training_batch(dataset, CONFIG, seed=0, position=0)
    loss = make_loss(CONFIG, 5, EPOCH).inner.inner
    pairs = disconnected(loss, params, batch, KEY, GROUPS, step=0)
    assert ("reconstruction", "graph") in pairs
    assert ("disentanglement", "graph") in pairs
    assert ("sparsity", "encoders") in pairs
    assert ("reconstruction", "encoders") not in pairs


def test_the_graph_is_the_same_bit_for_bit_whatever_the_data(trained):
    """Without a clip, which ties all gradients together by their common norm."""
    task, _, _, _ = trained
    rng = np.random.default_rng(0)
    graphs = []
    for noise in (False, True):
        state = task.init(jax.random.key(7))
        step = jax.jit(
            _plain_step, compiler_options={"xla_backend_optimization_level": 0}
        )
        params, inner = state.params, _ADAM.init(state.params)
        for position in range(5):
            batch = task.batch_at(position)
            if noise:
                shape = batch["values"].shape
                batch |= {"values": rng.normal(size=shape).astype(np.float32)}
            params, inner = step(params, inner, batch)
        graphs.append(jax.device_get(params["graph"]["logits"]))
        kernel = params["decoder"]["leave"]["kernel"]
        graphs.append(jax.device_get(kernel))
    np.testing.assert_array_equal(graphs[0], graphs[2])
    assert not np.array_equal(graphs[1], graphs[3])


_ADAM = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(RATE))
_LOSS = make_loss(CONFIG, 5, EPOCH).inner.inner


def _plain_step(params, inner, batch):
    gradient, _ = jax.grad(_LOSS, has_aux=True)(params, batch, KEY, step=0)
    updates, inner = _ADAM.update(gradient, inner, params)
    return optax.apply_updates(params, updates), inner


def test_a_run_without_guards_counts_no_clips_and_says_so(trained):
    known = {"steps": EPOCH, "rate": 1.0, "seconds": 0.0, "graph": NO_GRAPH}
    entry = epoch_of(trained[1], guarded=False, **known)
    assert math.isnan(entry.grad_clip_ratio)
    assert entry.norm_above_one == trained[3][-1]["norm_above_one"]


def test_before_the_first_step_there_is_nothing_to_log(trained):
    task = trained[0]
    with pytest.raises(ValueError, match="must have taken a step"):
        task.evaluate(task.init(KEY))


def test_the_learning_rate_is_measured_through_clip_and_decay():
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.add_decayed_weights(0.1),
        optax.adam(2e-3),
    )
    assert first_learning_rate(optimizer) == pytest.approx(2e-3, rel=1e-5)
    finite = optax.apply_if_finite(optax.sgd(0.3), 5)
    assert first_learning_rate(finite) == pytest.approx(0.3)


def test_the_time_of_an_epoch_that_began_elsewhere_is_not_known():
    clock = EpochClock(4)
    for position in (2, 3):
        clock.see(position)
    assert math.isnan(clock.seconds(4))
    for position in (4, 5, 6, 7):
        clock.see(position)
    assert clock.seconds(8) >= 0.0


def test_the_structural_decoder_reports_the_gradient_under_the_same_name():
    config = CONFIG.model_copy(
        update={"decoder": "structural", "standardization": "sound"}
    )
    task = build_task(config, guards=(), optimizer=optax.adam(1e-2))
    names = task.train.schema(task.init(KEY)).floats
    assert DATA_GRADIENT in names
    assert not any(name.startswith("disconnected/") for name in names)
