import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stabjax.config import ConfigError, effective, load, loads, override

BASE = """
model: {name: toy, width: 8}
train: {steps: 10, seed: 3}
optimizer: {kind: adamw, learning_rate: 1e-3, weight_decay: 1e-4}
"""


def test_a_configuration_is_read_with_its_defaults():
    config = loads(BASE)
    assert config.model_name == "toy"
    assert config.model.width == 8
    assert config.train.steps == 10
    assert config.train.window == 50
    assert config.guards == ()
    assert config.compare is None


def test_a_file_and_its_overrides_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(BASE)
    overrides = ["train.steps=20", "model.part.depth=2", "guards=null", "model.rate=1"]
    config = load(path, overrides)
    assert (config.train.steps, config.model.part.depth) == (20, 2)
    assert config.guards is None
    assert config.model.rate == 1.0


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["guards=null"],
        ["guards=[{kind: limit, parts: [a, b]}, {kind: limit, bound: 2}]"],
        ["model.label=yes", "model.flag=true", "model.sizes=[3]"],
        ["optimizer={kind: sgd, learning_rate: 1e-5, clip: 1, apply_if_finite: 3}"],
        ["optimizer.learning_rate={kind: constant, value: 1e-05}"],
        ["compare={seeds: [0, 1], arms: {a b: [model.width=2]}, ablate: {c: []}}"],
    ],
)
def test_the_effective_text_loads_to_the_same_settings(overrides):
    config = loads(BASE, overrides)
    text = effective(config)
    again = loads(text)
    assert effective(again) == text
    assert (again.model_name, again.model) == (config.model_name, config.model)
    assert (again.train, again.compare) == (config.train, config.compare)


def test_overrides_apply_to_a_checked_configuration():
    config = loads(BASE)
    changed = override(config, ["model.mode=seed"])
    assert changed.model.mode == "seed"
    assert config.model.mode == "sound"
    with pytest.raises(ConfigError, match=r"^arms\.x: .*model\.mode"):
        override(config, ["model.mode=saed"], source="arms.x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.width=0", "model.width must be greater than 0, got 0."),
        ("model.width=true", "model.width must be a valid integer, got True."),
        ("model.width=2.0", "model.width must be a valid integer, got 2.0."),
        ("model.width='3'", "model.width must be a valid integer, got '3'."),
        ("model.width=010", "model.width must be a valid integer, got '010'."),
        ("model.rate=1:30", "model.rate must be a valid number, got '1:30'."),
        ("model.flag=yes", "model.flag must be a valid boolean, got 'yes'."),
        ("model.mode=saed", "model.mode must be 'before', 'seed' or 'sound'"),
        ("model.widht=3", "model.widht is not an option of toy; did you mean 'width'?"),
        ("model.part.dpeth=3", "did you mean 'depth'?"),
        ("model.label=x", "model: label needs flag"),
        ("model.label=boom", "model: boom"),
        ("model.name=tyo", "model.name 'tyo' is unknown; did you mean 'toy'?"),
        ("model=null", "model.name None is unknown"),
        ("model=3", "model must be a mapping, got 3."),
        (
            "train.stpes=1",
            "train.stpes is not an option of train; did you mean 'steps'",
        ),
        ("train.steps=0", "train.steps must be greater than or equal to 1, got 0."),
        ("train.steps=1e3", "train.steps must be a valid integer, got 1000.0."),
        ("train.steps=99999999999", "train.steps must be less than or equal to"),
        ("train.seed=-1", "train.seed must be greater than or equal to 0, got -1."),
        ("train=[]", "train must be a mapping, got []."),
        ("trian={}", "'trian' is not a section; did you mean 'train'?"),
        ("guards=3", "guards must be a list or null, got 3."),
        ("guards=[3]", "guards.0 must be a mapping with a kind, got 3"),
        ("guards=[{kind: limti}]", "guards.0.kind 'limti' is unknown; did you mean"),
        ("guards=[{kind: limit, bound: 0}]", "guards.0: limit: bound must be > 0"),
        ("guards=[{kind: limit}, {kind: limit, bnd: 1}]", "guards.1.bnd is not an"),
        ("optimizer=null", "optimizer must be a mapping with a kind, got None."),
        ("optimizer.kind=adaw", "optimizer.kind 'adaw' is unknown; did you mean 'ada"),
        ("compare.seeds=[true]", "compare.seeds.0 must be a valid integer, got True."),
        ("compare.arms={a: model.x=1}", "compare.arms.a must be a valid array"),
        ("train.steps", "override must be key=value, got 'train.steps'."),
        ("=3", "override must be key=value, got '=3'."),
        ("train.steps=[", "override 'train.steps=[': not readable as YAML"),
        ("train.steps.x=1", "train.steps.x cannot be set: train.steps is 10"),
    ],
)
def test_a_fault_names_its_key_its_range_and_its_value(change, message):
    with pytest.raises(ConfigError) as caught:
        loads(BASE, [change], source="f.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[]", "null", "text", "a: b"])
def test_a_text_that_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError, match=r"f\.yaml"):
        loads(text, source="f.yaml")


def test_unreadable_files_are_configuration_errors(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xff")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 600_000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (latin, large, fifo, tmp_path, tmp_path / "none.yaml", "a\0b"):
        with pytest.raises(ConfigError):
            load(path)


VALUES = st.sampled_from(
    [
        "0",
        "-1",
        "1",
        "1e-3",
        "true",
        "yes",
        "null",
        "[]",
        "{}",
        "010",
        ".nan",
        "1e400",
        "-0.0",
        "1:30",
        "'",
        "text",
        "{1: 2}",
        "&a [*a]",
        "{kind: adam}",
        "[{kind: x}]",
        "[{kind: limit}]",
        "{kind: [1]}",
        "{name: toy}",
        "[1, [2]]",
        "!!python/name:os.system",
        '"\\ud800"',
        "99999999999999999999999",
    ]
)
KEYS = st.sampled_from(
    [
        "model",
        "model.name",
        "model.width",
        "model.rate",
        "model.sizes",
        "model.part",
        "model.part.depth",
        "model.flag",
        "model.label",
        "train",
        "train.steps",
        "train.seed",
        "train.keep",
        "train.window",
        "optimizer",
        "optimizer.kind",
        "optimizer.learning_rate",
        "optimizer.learning_rate.kind",
        "optimizer.b1",
        "optimizer.clip",
        "optimizer.apply_if_finite",
        "guards",
        "guards.0",
        "guards.0.bound",
        "compare",
        "compare.seeds",
        "compare.arms",
        "compare.ablate",
        "model..x",
    ]
)
OVERRIDES = st.lists(
    st.builds("{}={}".format, KEYS, VALUES | st.text(max_size=12))
    | st.text(max_size=12),
    max_size=4,
)


def check_only_configuration_errors_leave(overrides):
    try:
        config = loads(BASE, overrides)
    except ConfigError:
        return
    text = effective(config)
    assert effective(loads(text)) == text


@given(OVERRIDES)
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
def test_no_other_exception_leaves_loading(overrides):
    check_only_configuration_errors_leave(overrides)


@pytest.mark.slow
@given(OVERRIDES)
@settings(max_examples=5000, suppress_health_check=list(HealthCheck))
def test_no_other_exception_leaves_loading_at_length(overrides):
    check_only_configuration_errors_leave(overrides)
