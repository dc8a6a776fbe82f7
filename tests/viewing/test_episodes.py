"""Episodes to play: what is shown of them, and what they are said to be."""

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.modules import MapGeometry
from gaze_torchrl.training.evaluation import gaze_distance, gaze_on_target
from gaze_torchrl.viewing.episodes import show_episodes

IDENTITY = MapGeometry((8, 8), (1.0, 1.0), (0.0, 0.0))


def episodes(lengths, total, done=True, truth=True, gaze=True):
    lanes = len(lengths)
    step = torch.arange(total).expand(lanes, -1)
    mask = step < torch.tensor(lengths)[:, None]
    last = (step == torch.tensor(lengths)[:, None] - 1) & done
    steps = TensorDict(
        {
            "pixels": torch.randint(0, 256, (lanes, total, 3, 16, 16), dtype=torch.uint8),
            "mask": mask,
            "next": {
                "reward": torch.ones(lanes, total, 1),
                "done": last[..., None],
                "success": torch.ones(lanes, total, 1, dtype=torch.bool),
            },
        },
        [lanes, total],
    )
    if gaze:
        steps["gaze"] = {"map": torch.rand(lanes, total, 8, 8), "foveae": torch.rand(lanes, total, 2, 8, 8)}
        steps["gaze", "mean"] = torch.rand(lanes, total, 2, 2) - 0.5
        steps["gaze", "covariance"] = torch.eye(2).expand(lanes, total, 2, 2, 2) * 0.05
    if truth:
        steps["truth"] = {"center": torch.zeros(lanes, total, 2), "mask": torch.rand(lanes, total, 16, 16) > 0.5}
    return steps


def test_each_ends_where_it_ended_on_one_axis():
    short, long = show_episodes(episodes([3, 6], 6), IDENTITY)
    assert (short.steps, long.steps) == ([0, 1, 2], list(range(6)))
    assert [len(one.frames) for one in (short, long)] == [3, 6]
    assert short.outcome == "return 3 in 3 steps, success at the end"
    assert all(len(chart.x) == 3 for chart in short.charts)
    assert [chart.domain for chart in short.charts] == [chart.domain for chart in long.charts]
    assert [chart.y_ticks for chart in short.charts] == [chart.y_ticks for chart in long.charts]


@pytest.mark.parametrize("objects", [(), (2,)])
def test_traces_are_those_of_the_evaluation(objects):
    steps = episodes([4], 4)
    steps["truth", "center"] = torch.rand(1, 4, *objects, 2)
    (one,) = show_episodes(steps, IDENTITY)
    traces = {chart.title: chart.series[""] for chart in one.charts}
    assert traces["Reward"] == [1, 1, 1, 1]
    distance = gaze_distance(steps["gaze", "mean"], steps["truth", "center"], IDENTITY)[0]
    assert traces["Gaze: distance to target"] == pytest.approx(distance.tolist())
    foveae = steps["gaze", "foveae"]
    density = (foveae / foveae.sum((-2, -1), keepdim=True)).mean(-3)
    share = gaze_on_target(density, steps["truth", "mask"], IDENTITY)[0]
    assert traces["Gaze: attention on target"] == pytest.approx(share.tolist())


def test_without_the_truth_or_a_gaze_less_is_said():
    (one,) = show_episodes(episodes([4], 4, truth=False), IDENTITY)
    assert [chart.title for chart in one.charts] == ["Reward", "Gaze: how spread out"]
    (one,) = show_episodes(episodes([4], 4, gaze=False), IDENTITY)
    assert [chart.title for chart in one.charts] == ["Reward"]
    assert one.frames[0].width == one.frames[0].height


def test_long_ones_are_thinned_and_unfinished_ones_say_so():
    (one,) = show_episodes(episodes([250], 250, done=False), IDENTITY)
    assert one.steps == list(range(0, 250, 3))
    assert len(one.charts[0].x) == 250
    assert one.outcome == "return 250 in the first 250 steps"
