import io

from stabjax.run import progress


def rows(first, last):
    return [
        {"step": step, "loss": 0.5, "grad_norm": 2.0, "refused_total": 3}
        for step in range(first, last)
    ]


def test_plain_lines_tell_loss_norm_refusals_alerts_and_speed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    show = progress.Plain(out)
    show.start(0, 100)
    show.rows(rows(0, 50), {"clipped": 7})
    now[0] = 1.0
    show.rows(rows(50, 60), {"clipped": 7})  # too soon for another line
    now[0] = 10.0
    show.rows(rows(60, 90), {"clipped": 8})
    first, second = out.getvalue().splitlines()
    assert first == "step 50/100  loss 0.5  grad norm 2  refused 3  clipped 7"
    assert second.startswith("step 90/100")
    assert second.endswith("clipped 8  4 steps/s")


def test_the_last_step_is_always_shown():
    out = io.StringIO()
    show = progress.Plain(out)
    show.start(0, 20)
    show.rows(rows(0, 10), {})
    show.rows(rows(10, 20), {})
    assert len(out.getvalue().splitlines()) == 2


def test_a_terminal_gets_a_live_line_and_quiet_gets_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show = progress.make(True)
    show.start(0, 20)
    show.rows(rows(0, 10), {"clipped": 1})
    show.say("resuming")
    show.close()
    text = capsys.readouterr().err
    assert "resuming" in text
    assert "step 10/20" in text
    silent = progress.make(False)
    silent.start(0, 1)
    silent.rows(rows(0, 1), {})
    silent.say("x")
    silent.close()
    assert capsys.readouterr().err == ""
