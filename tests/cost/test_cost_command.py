"""What guards add to a user's own optimizer, by function and by command."""

import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest

from stabjax import guards
from stabjax.cli import main
from stabjax.config import ConfigError
from stabjax.cost import measure
from stabjax.cost.shapes import read_shapes, spread_over
from stabjax.cost.subject import find_subject

pytestmark = pytest.mark.optimized

RUN = pathlib.Path(__file__).parents[1] / "run"
SHAPES = read_shapes("core=256x256,bias=256")
UNIT = 4 * 256 * 257


def test_the_counts_are_those_of_the_programs():
    cost = measure(SHAPES, optax.adamw(1e-3), [guards.clip_by_global_norm()])
    assert (cost.unit, cost.leaves) == (UNIT, 2)
    assert cost.optimizer.bytes == pytest.approx(10 * cost.unit, rel=1e-3)
    assert cost.clipped.bytes == pytest.approx(15 * cost.unit, rel=1e-2)
    assert cost.clipped.temporary >= cost.unit
    # What the step carries besides is small, but so is this tree.
    assert cost.guarded.bytes == pytest.approx(11 * cost.unit, rel=0.1)
    assert cost.guarded.temporary < 0.2 * cost.unit
    assert cost.share("optimizer") == cost.guarded.bytes / cost.optimizer.bytes
    assert cost.optimizer.kernels is None, "not countable on CPU"
    assert cost.guarded.compile_seconds > 0


def test_a_tree_of_one_leaf_costs_what_others_do():
    """As large as the others are: what a step carries besides does not count."""
    one = read_shapes("core=2048x1024")
    cost = measure(one, optax.adamw(1e-3), [guards.clip_by_global_norm()])
    assert cost.guarded.bytes <= 1.12 * cost.optimizer.bytes
    assert cost.guarded.temporary < 0.1 * cost.unit


def test_nothing_is_run_and_arrays_do_as_well_as_shapes():
    params = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan), SHAPES)
    cost = measure(params, optax.sgd(0.1), ())
    assert cost.guarded.bytes == measure(SHAPES, optax.sgd(0.1), ()).guarded.bytes
    assert not params["core"].is_deleted()


def test_snapshots_are_counted():
    given = [guards.escalate()]
    with pytest.raises(ValueError, match="snapshot_every"):
        measure(SHAPES, optax.adamw(1e-3), given)
    kept = measure(SHAPES, optax.adamw(1e-3), given, snapshot_every=10)
    bare = measure(SHAPES, optax.adamw(1e-3), [guards.escalate(max_rollbacks=0)])
    assert kept.guarded.bytes > 2 * bare.guarded.bytes


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_on_a_mesh_collectives_are_counted():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = spread_over(mesh)
    assert place(jax.ShapeDtypeStruct((4, 4), "float32")).is_fully_replicated
    cost = measure(SHAPES, optax.adamw(1e-3), (), place=place, form="select")
    assert cost.optimizer.collectives == 0
    assert cost.clipped.collectives == 1
    assert cost.guarded.collectives == 1
    shard = 4 * (256 * 256 / 8 + 256)  # the bias lies on every device
    assert cost.optimizer.bytes == pytest.approx(10 * shard, rel=1e-3)


def test_shapes_are_read_from_text_and_from_a_file(tmp_path):
    tree = read_shapes("core/w=8x4,core/b=4:bfloat16,scale=")
    assert tree["core"]["w"].shape == (8, 4)
    assert tree["core"]["b"].dtype == jnp.bfloat16
    assert tree["scale"].shape == ()
    path = tmp_path / "shapes.yaml"
    path.write_text("core: {w: 8x4, b: '4:bfloat16'}\nscale:\n")
    assert read_shapes(str(path)) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w", "must be name=shape"),
        ("w=3,w=4", "given twice"),
        ("w=3,w/b=4", "a leaf and a branch"),
        ("w=3x", "must be a shape as 1024x512"),
        ("w=-3", "must be a shape"),
        ("w=3:bfloat61", "did you mean 'bfloat16'"),
        ("w=9999999x9999999", "at most"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_what_is_no_shape_is_refused_with_its_name(text, message):
    with pytest.raises(ConfigError, match=message):
        read_shapes(text)


def test_the_command_prints_a_table_for_shapes_and_options(capsys):
    words = ["--shapes", "w=64x64,b=64", "optimizer.kind=lion"]
    words += ["optimizer.learning_rate=1e-3", "guards=[{kind: skip_nonfinite}]"]
    assert main(["cost", *words]) == 0
    out = capsys.readouterr().out
    assert "optax clip + optimizer" in out
    assert "times the bytes of the optimizer alone" in out
    assert "N = 16640 bytes, 2 arrays" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a configuration"),
        (["nowhere"], "'nowhere' not found"),
        (["no_module:function"], "No module named"),
        (["math:pie"], "no attribute 'pie'"),
        (["math:inf", "a=1"], "takes neither overrides nor --shapes"),
        (["--shapes", "w=4", "gaurds=null"], "did you mean 'guards'"),
        (["--shapes", "w=4", "guards=3"], "guards must be a list or null"),
        (["--shapes", "w=4", "guards=[{kind: skip}]"], "guards.0.kind 'skip'"),
        (
            ["--shapes", "w=4", "guards=[{kind: clip_by_group_norm, groups: [core]}]"],
            "no parameter lies under 'core'",
        ),
        (["--shapes", "w=4", "--devices", "0"], "--devices must be >= 1"),
    ],
)
def test_what_cannot_be_measured_exits_with_2(words, message, capsys):
    assert main(["cost", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_function_of_the_user_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_step.py").write_text(
        "import jax.numpy as jnp, optax\n"
        "from stabjax import guards\n"
        "def build():\n"
        "    return {'w': jnp.ones((32, 32))}, optax.sgd(0.1), [guards.back_off()]\n"
        "def broken():\n"
        "    return 3\n"
    )
    assert main(["cost", "my_own_step:build"]) == 0
    assert "N = 4096 bytes, 1 arrays" in capsys.readouterr().out
    assert main(["cost", "my_own_step:broken"]) == 2
    assert "must return (params, optimizer, guards), got 3" in capsys.readouterr().err


def test_a_configuration_brings_its_model_its_components_and_its_metrics(
    tmp_path, monkeypatch
):
    import stabjax.models

    monkeypatch.syspath_prepend(str(RUN))
    monkeypatch.setitem(stabjax.models.MODELS, "line", "line_model")
    path = tmp_path / "line.yaml"
    path.write_text(
        "model: {name: line, width: 7}\n"
        "guards: [{kind: reduce_on_plateau, metric: raw/error}]\n"
        "optimizer: {kind: adam, learning_rate: 0.1}\n"
    )
    subject = find_subject(str(path), [], None)
    assert subject.params["w"].shape == (7,)
    assert subject.options["components"] == ("raw/error",)
    assert subject.options["metrics"] == ["bias"]
    assert [guard.name for guard in subject.guards] == ["reduce_on_plateau"]
    assert main(["cost", str(path)]) == 0
