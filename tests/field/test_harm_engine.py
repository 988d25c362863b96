import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harm.execute import Case, Scanned
from harm.faults import FAULTS, damage_of
from harm.outcome import alerts_in
from harm.own_loop import Wrapped
from harm.plan import pairs
from harm.pool import Job, run_all
from harm.records import Records
from harm.run import OwnLoop, Run, jit_quickly
from harm.settings import PLAIN, REFERENCES, Setting, Subject, build
from harm.table import faults_table, grouped, healthy_table, recoveries
from harm.work import CLEAN, TWINS, Worker

from stabjax import guards
from stabjax.types import Alert

STEPS = 50
SUBJECT = Subject(None, 10.0, 1.0, (), own_loop=False)
BY_NAME = {fault.name: fault for fault in FAULTS}
NAN = BY_NAME["one NaN batch"]


def init(seed):
    return {"w": np.random.default_rng(seed).normal(size=3).astype(np.float32)}


def batches(seed):
    x = np.random.default_rng([seed, 1]).normal(size=(STEPS, 16, 3))
    y = x @ [1.0, -1.0, 0.5] + 0.1 * np.random.default_rng(2).normal(size=(STEPS, 16))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def loss_fn(params, batch, key):
    loss = jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    return loss, {"raw/fit": loss}


def score(params, model_state, seed):
    return float(jnp.mean((jnp.asarray([1.0, -1.0, 0.5]) - params["w"]) ** 2))


RUN = Run("line", "toy", STEPS, init, loss_fn, lambda: optax.adam(0.1), batches, score)


@functools.cache
def program(wrap, damage):
    optimizer = wrap(optax.adam(0.1))

    @jit_quickly
    def train(params, batches):
        def step(carry, given):
            params, state = carry
            batch, number = given
            batch = damage(batch, number)
            loss = lambda p: loss_fn(p, batch, None)[0]
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        steps = jnp.arange(STEPS)
        return jax.lax.scan(step, (params, optimizer.init(params)), (batches, steps))[0]

    return train


def loop(wrap, seed, damage):
    params, state = program(wrap, damage)(init(seed), batches(seed))
    return score(params, None, seed), [state]


OWN = OwnLoop("own", "toy", STEPS, loop)


def lines_of(run, what, settings, lines=()):
    worker = Worker(run, what, 2, list(lines), lambda line: None)
    worker.work(settings)
    return worker.lines


@pytest.fixture(scope="module")
def healthy():
    return lines_of(RUN, "healthy", ["unguarded", "readme", "back_off", "sentinel"])


def test_a_healthy_run_has_a_line_per_setting_and_seed_and_twins_of_references(healthy):
    found = [(line["setting"], line["seed"]) for line in healthy]
    settings = ["unguarded", "back_off", "sentinel", "clip", "readme"]
    assert sorted(found) == sorted((s, seed) for s in settings for seed in (0, 1))
    for line in healthy:
        assert math.isfinite(line["score"])
        assert (line["steps"], line["refused"]) == (STEPS, 0)
        assert len(line.get("twins", [])) == TWINS * (line["setting"] in REFERENCES)
        assert line["reference"] == (
            "clip" if line["setting"] == "readme" else "unguarded"
        )


def test_what_is_there_is_not_run_again(healthy, monkeypatch):
    monkeypatch.setattr(Worker, "_program", lambda *_: pytest.fail("it was run again"))
    assert lines_of(RUN, "healthy", ["readme", "back_off"], healthy) == healthy
    with pytest.raises(pytest.fail.Exception):
        lines_of(RUN, "healthy", ["readme", "back_off"], healthy[:-1])


def test_twins_share_the_data_and_nothing_else():
    seen = []

    def seeds(name):
        return lambda seed: (seen.append((name, seed)), globals()[name](seed))[1]

    setting = build("unguarded", SUBJECT)
    run = Run(**{**vars(RUN), "init": seeds("init"), "batches": seeds("batches")})
    scanned = Scanned(Case(run), setting)
    plain, twin = scanned.play(1), scanned.play(1, twin=2)
    assert set(seen) >= {("init", 1), ("init", 2001), ("batches", 1)}
    assert ("batches", 2001) not in seen
    assert plain.score != twin.score
    assert plain == scanned.play(1)


@pytest.mark.parametrize("fault", [NAN, BY_NAME["moments infinite"]])
def test_a_late_fault_is_the_same_with_and_without_the_run_up_to_it(fault):
    scanned = Scanned(Case(RUN), build("readme", SUBJECT), faulty=True)
    whole = scanned.play(0, fault=fault)
    clean = scanned.play(0)
    assert scanned.play(0, fault=fault) == whole != clean
    assert scanned.play(0) == clean


def test_a_faulty_program_without_a_fault_is_the_healthy_one():
    for name in ("unguarded", "readme"):
        setting = build(name, SUBJECT)
        clean = Scanned(Case(RUN), setting, faulty=True).play(0)
        plain = Scanned(Case(RUN), setting).play(0)
        assert clean.score == pytest.approx(plain.score, rel=1e-4)


def test_faults_kill_the_unguarded_run_and_are_recorded_by_name():
    lines = lines_of(RUN, "faults", ["unguarded", "readme"])
    nan = [line for line in lines if line["fault"] == NAN.name]
    assert [line["score"] is None for line in nan] == [True, True, False, False]
    assert [line["refused"] for line in nan] == [0, 0, 1, 1]
    assert {line["fault"] for line in lines} == {CLEAN, *BY_NAME}
    table = list(faults_table(lines, []))
    assert "| one NaN batch | 0/1 | 0/1 | 1/1 |" in table


def test_a_run_with_a_loop_of_its_own_counts_alerts_and_refusals():
    setting = Setting((guards.clip_by_global_norm(max_norm=0.5),))
    wrapped = Wrapped(OWN, setting)
    clean, broken = wrapped.play(0), wrapped.play(0, fault=NAN)
    assert (clean.steps, clean.refused) == (STEPS, 0)
    assert set(clean.alerts) == {"clipped"}
    assert broken.refused == broken.alerts["nonfinite_gradient"] == 1
    plain = Wrapped(OWN, build("unguarded", SUBJECT)).play(0, fault=NAN)
    assert plain.score is None
    skipped = Wrapped(OWN, build("apply_if_finite+clip", SUBJECT)).play(0, fault=NAN)
    assert skipped.refused == 1


def test_damage_is_one_object_per_fault_so_that_it_is_compiled_once():
    assert damage_of(NAN, STEPS) is damage_of(NAN, STEPS)
    assert damage_of(None, STEPS) is damage_of(None, STEPS)


def test_every_setting_can_be_built_and_names_a_plain_reference():
    names = [*PLAIN, "readme", "zclip+skip_nonfinite", "family", *guards.GUARDS]
    metrics = ("share", "count", "gradient/x")
    for clip in (None, 0.5):
        subject = Subject(clip, 10.0, 1.0, metrics, own_loop=False)
        for name in names:
            setting = build(name, subject)
            if name == "clip" and clip is not None:
                assert setting is None
                continue
            assert build(setting.reference, subject) is not None
            assert setting.reference in REFERENCES


def test_a_clip_of_the_run_stays_whatever_guards_it():
    subject = Subject(0.5, 10.0, 1.0, (), own_loop=False)
    for name in ("skip_spikes", "readme", "family"):
        names = {guard.name for guard in build(name, subject).guards}
        assert names >= {"clip_by_global_norm"}


def test_a_loss_scale_is_nothing_for_a_loop_of_its_own():
    own = Subject(None, 10.0, 1.0, (), own_loop=True)
    assert build("dynamic_loss_scale", own) is None
    family = {guard.name for guard in build("family", own).guards}
    assert "dynamic_loss_scale" not in family


def test_records_go_on_where_they_were(tmp_path):
    path = tmp_path / "results" / "harm.jsonl"
    records = Records(path)
    records.begin({"command": "x"})
    records.add({"run": "a", "setting": "clip", "seed": 0})
    records.add({"run": "b", "setting": "clip", "seed": 0})
    again = Records(path)
    assert again.of("b") == [{"run": "b", "setting": "clip", "seed": 0}]
    again.forget({"b": ("clip",), "a": ("zclip",)})
    again.begin({"command": "y"})
    assert [line["run"] for line in Records(path).lines] == ["a"]
    assert path.read_text().splitlines()[0] == '{"about":{"command":"y"}}'


def test_the_table_counts_harmed_runs_and_says_why(healthy):
    worse = [
        {**line, "refused": 5} if line["setting"] == "readme" else line
        for line in healthy
    ]
    rows = list(healthy_table(worse, []))
    assert any(row.startswith("| readme | 1 of 1 |") for row in rows)
    assert any(row.startswith("| back_off | 0 of 1 |") for row in rows)
    assert any("refused 10.0 %" in row for row in rows)


def test_a_run_recovers_to_the_unguarded_run_or_to_the_one_with_the_same_clip():
    def line(setting, score, fault=CLEAN, reference="unguarded", **more):
        whole = {"run": "a", "setting": setting, "fault": fault, "score": score}
        return {**whole, "seed": 0, "halted": False, "reference": reference, **more}

    clean = [line("unguarded", 1.0, twins=[1.0]), line("clip", 2.0, twins=[2.0])]
    for score, plain, clipped in ((1.0, True, True), (2.0, False, True)):
        hit = [line("adagc", score, "x"), line("readme", score, "x", "clip")]
        found = recoveries(grouped(clean + hit))
        assert found["adagc", "x", "a"] == plain
        assert found["readme", "x", "a"] == clipped
    worst = [line("readme", 3.0, "x", "clip")]
    assert not recoveries(grouped(clean + worst))["readme", "x", "a"]


def test_alert_bits_are_counted_by_name():
    bits = np.array([0, Alert.CLIPPED, Alert.CLIPPED | Alert.HALT])
    assert alerts_in(bits) == {"clipped": 2, "halt": 1}


@pytest.mark.slow
def test_a_run_that_fails_in_a_worker_is_named():
    job = Job("healthy", "digits_mlp_adam_constant", ("no such setting",), 1, ())
    lines = []
    failed = run_all([job], 1, lines.append)
    assert "no such setting" in failed["digits_mlp_adam_constant"]
    assert {line["setting"] for line in lines} == {"unguarded"}


def test_guards_are_added_to_the_preset_and_left_out_of_it(monkeypatch):
    for name in ("recommended", "recommended+zclip", "recommended-skip_spikes"):
        if not hasattr(guards, "recommended"):
            assert build(name, SUBJECT) is None
    inside = (guards.clip_by_global_norm(), guards.skip_spikes())
    monkeypatch.setattr(guards, "recommended", lambda: inside, raising=False)

    def names(setting):
        found = build(setting, SUBJECT)
        return None if found is None else [guard.name for guard in found.guards]

    assert names("recommended") == ["clip_by_global_norm", "skip_spikes"]
    assert names("recommended-skip_spikes") == ["clip_by_global_norm"]
    assert names("recommended+zclip") == ["clip_by_global_norm", "skip_spikes", "zclip"]
    assert names("recommended-zclip") is names("recommended+skip_spikes") is None
    assert build("recommended", SUBJECT).reference == "clip"
    assert build("recommended-clip_by_global_norm", SUBJECT).reference == "unguarded"
    assert pairs()[:2] == ("recommended-clip_by_global_norm", "recommended-skip_spikes")
    assert "recommended+zclip" in pairs()
    assert all(build(name, SUBJECT) for name in pairs())


def test_the_bound_of_the_preset_is_that_of_the_run(monkeypatch):
    def recommended(*, max_norm=1.0):
        return (guards.skip_large(max_norm=max_norm),)

    monkeypatch.setattr(guards, "recommended", recommended, raising=False)
    seen = []
    monkeypatch.setattr(
        guards, "skip_large", lambda *, max_norm: seen.append(max_norm) or SENTINEL
    )
    build("recommended", Subject(0.5, 10.0, 1.0, (), own_loop=False))
    assert seen == [0.5]


SENTINEL = guards.sentinel(metric="loss")
