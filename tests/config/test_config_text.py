import pathlib
import resource
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stabjax.config.errors import ConfigError
from stabjax.config.text import MAX_INTEGER, dump, parse, put

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(1 - MAX_INTEGER, MAX_INTEGER - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["1e-3", "010", "yes", "1:30", "~", "", "<<", "=", "-", "0x1f"])
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("1E5", 100000.0),
        ("-7", -7),
        ("+3", 3),
        (".5", 0.5),
        ("5.", 5.0),
        ("true", True),
        ("null", None),
        ("", None),
        ("~", None),
        ("010", "010"),
        ("0o10", "0o10"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("Off", "Off"),
        ("2001-01-01", "2001-01-01"),
        ("'7'", "7"),
    ],
)
def test_numbers_follow_the_core_rules_and_leave_the_rest_as_text(text, value):
    parsed = parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@given(DATA)
@example({"\x85": None})  # a line break to YAML 1.1, folded away unless escaped
def test_dumped_data_parses_back_to_the_same_data(data):
    back = parse(dump(data))
    assert back == data
    assert repr(back) == repr(data)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{a: 1, a: 2}", "duplicate"),
        ("a: {b: 1}\na: 2", "duplicate"),
        ("a: .nan", "finite"),
        ("a: [1, -.inf]", "a.1 must be finite"),
        ("a: 1e999", "finite"),
        ("a: 99999999999999999999", "2**63"),
        ("a: " + "9" * 100_000, "2**63"),
        ("1: a", "key must be text"),
        ("true: a", "key must be text"),
        ("? [a]\n: b", "key must be text"),
        ("a: 1\n---\nb: 2", "YAML"),
        ("a: [1", "YAML"),
        ("a: &x [*x]", "itself"),
        ("a: *nobody", "YAML"),
        ('a: "\\ud800"', "text"),
        ('a: "\\UFFFFFFFF"', "YAML"),
        ("a: \x00", "YAML"),
        ("\t a: 1", "YAML"),
        ("%YAML 9.9\n---\na: 1", "YAML"),
        ("a: 2001-99-99\nb: [", "YAML"),
    ],
)
def test_a_faulty_text_is_refused_with_its_reason(text, word):
    with pytest.raises(ConfigError, match=r"^file\.yaml: ") as caught:
        parse(text, "file.yaml")
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch PLANTED']",
        "!!python/object/apply:pathlib.Path.touch [PLANTED]",
        "!!python/object/new:os.system ['touch PLANTED']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:builtins.object {}",
        "!!python/tuple [1]",
        "!custom {}",
        "!!timestamp 2001-01-01",
    ],
)
def test_code_tags_never_run(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="tags are refused"):
        parse(f"a: {tag}")
    assert not list(pathlib.Path().iterdir())


def _laughs(levels: int, width: int) -> str:
    lines = ["a0: &a0 [lol]"]
    for level in range(1, levels):
        row = ",".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{row}]")
    return "\n".join(lines)


BOMBS = {
    "laughs": _laughs(9, 9),
    "wide laughs": _laughs(4, 200),
    "deep list": "[" * 50_000,
    "deep mapping": "{a: " * 30_000,
    "deep block": "".join(f"{' ' * i}a:\n" for i in range(450)),
    "many keys": "\n".join(f"k{i}: 0" for i in range(11_000)),
    "long text": "a: " + "x" * 10_000_000,
    "many anchors": " ".join(f"[&a{i} 1," for i in range(9_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_seconds(name):
    started = time.process_time()
    with pytest.raises(ConfigError):
        parse(BOMBS[name])
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 1024**2


def test_plain_aliases_are_kept():
    assert parse("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin1")))
def test_no_other_exception_leaves_the_parser(text):
    try:
        data = parse(text)
    except ConfigError:
        return
    assert parse(dump(data)) == data


@given(DATA)
def test_other_readers_agree_on_what_we_write(data):
    # Text that YAML 1.1 would convert is quoted, so PyYAML reads the same types.
    assert yaml.safe_load(dump({"a": data})).keys() == {"a"}


def test_an_override_reaches_into_lists_and_makes_missing_sections():
    document = {"guards": [{"max_norm": 1.0}]}
    put(document, "guards.0.max_norm", 2, "file")
    put(document, "train.steps", 10, "file")
    assert document == {"guards": [{"max_norm": 2}], "train": {"steps": 10}}


@pytest.mark.parametrize("path", ["guards.1", "guards.x.a", "a.b", "", "a..b", "."])
def test_an_override_that_leads_nowhere_is_refused(path):
    with pytest.raises(ConfigError, match="file"):
        put({"guards": [{}], "a": 3}, path, 1, "file")
