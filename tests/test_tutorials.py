"""The tutorials run as they stand."""

import runpy
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


def test_ppo_with_gaze(capsys):
    tutorial = runpy.run_path(str(TUTORIALS / "ppo_with_gaze.py"))
    reward = tutorial["main"](frames=3 * 1024)
    assert 0 < reward < 1.3
    assert "loss_contrast" in capsys.readouterr().out
