import json

import numpy as np
import pytest

from stabjax.run.page_events import bucket_shares, counts, group_events, outcome
from stabjax.run.page_records import read_run

CLIPPED, NONFINITE = 1 << 6, 1 << 0


def write(folder, rows, events=(), steps=None):
    (folder / "health.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    (folder / "config.yaml").write_text(f"train: {{steps: {steps or len(rows)}}}")
    return read_run(folder)


def test_an_event_counts_each_step_of_its_alert_and_leaf(tmp_path):
    rows = [{"step": k, "alerts": NONFINITE if k in (2, 3, 7) else 0,
             "first_bad_leaf": 1 if k == 7 else 0} for k in range(9)]  # fmt: skip
    events = [
        {"event": "alert", "alert": "nonfinite_loss", "step": 2, "leaf": "a"},
        {"event": "alert", "alert": "nonfinite_loss", "step": 7, "leaf": "b"},
        {"event": "checkpoint", "step": 8},
    ]
    groups = group_events([("0", write(tmp_path, rows, events))])
    assert [(g.where, g.times, g.steps) for g in groups] == [
        ("a", 2, "2 to 3"),
        ("b", 1, "7"),
    ]


@pytest.mark.parametrize(
    ("event", "said"),
    [({"event": "halted", "step": 6, "at": 4}, "halted at step 4"),
     ({"event": "finished", "step": 6, "diverged": True}, "diverged"),
     ({"event": "failed", "step": 6}, "failed at step 6"),
     ({"event": "preempted", "step": 6}, "stopped after 6 of 10 steps")],
)  # fmt: skip
def test_how_a_run_ended_is_said(tmp_path, event, said):
    rows = [{"step": k, "loss": 1.0} for k in range(6)]
    assert outcome(write(tmp_path, rows, [event], steps=10)) == said


def test_a_run_that_did_its_steps_finished(tmp_path):
    assert outcome(write(tmp_path, [{"step": 0}, {"step": 1}])) == "finished"


def test_refused_and_clipped_steps_are_counted_from_telemetry(tmp_path):
    rows = [
        {"step": 0, "accepted": 0, "gradient_scale": "nan", "alerts": NONFINITE},
        {"step": 1, "accepted": 1, "gradient_scale": 0.5, "alerts": CLIPPED},
        {"step": 2, "accepted": 1, "gradient_scale": 1.0, "alerts": 0},
    ]
    run = write(tmp_path, rows)
    marked = {kind: counts([run], kind)[0] for kind in ("refused", "clipped", "alert")}
    assert marked == {"refused": 1, "clipped": 1, "alert": 1}


def test_the_shares_of_a_strip_sum_to_the_marked_steps():
    every = np.arange(1000)
    shares = bucket_shares([(every[::4], every)], 999)
    assert len(shares) == 200
    np.testing.assert_allclose(shares.mean(), 0.25, atol=0.01)
