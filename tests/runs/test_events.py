"""Event files for TensorBoard."""

import tensorboardX

from cnnjax.runs import open_events


def test_a_run_that_goes_on_hides_what_came_behind_the_saved_step_and_not_that_step(monkeypatch, tmp_path):
    purged = []
    monkeypatch.setattr(tensorboardX, "SummaryWriter", lambda place, purge_step: purged.append(purge_step))
    for step in (0, 16):
        open_events(tmp_path, step, wanted=True)
    open_events(tmp_path, 16, wanted=False)
    assert purged == [1, 17]
