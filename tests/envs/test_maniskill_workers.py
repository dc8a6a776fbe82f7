"""Scenes in several processes: the same episodes, and errors that say which process and why."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torchrl.envs.utils import step_mdp

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_workers import Workers
from gaze_torchrl.envs.wrapping import WorkerDied
from tests.envs.maniskill_support import skip_without_maniskill
from tests.processes import alive

skip_without_maniskill()
pytestmark = [pytest.mark.maniskill, pytest.mark.slow]

SMALL = {"task": "PullCube-v1", "num_envs": 3, "image_size": 32, "horizon": 4}


@pytest.fixture(scope="module")
def env():
    env = ManiSkillEnv(**SMALL, num_workers=2)
    yield env
    env.close()


def gone(pids, seconds=20):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, pids))


def test_number_of_processes_changes_nothing_but_speed(env):
    """Three scenes in two processes, over several episodes with resets of some scenes at odd times."""
    one = ManiSkillEnv(**SMALL)
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(10, *one.action_spec.shape, generator=generator) - 1

    def play(env):
        env.set_seed(3)
        td, seen = env.reset(), []
        for t, action in enumerate(actions):
            step, td = env.step_and_maybe_reset(td.set("action", action))
            seen.append(step)
            if t in (1, 5):
                td = env.reset(td.set("_reset", torch.tensor([[t == 5], [False], [True]])))
        return torch.stack(seen)

    expected, found = play(one), play(env)
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        assert torch.equal(found[key], expected[key]), key
    assert expected["next", "done"].sum() >= 5
    one.close()


def test_what_was_handed_out_does_not_change(env):
    first = env.rand_step(env.reset())
    kept, copy = first["next"], first["next"].clone()
    env.rand_step(step_mdp(first))
    assert (kept == copy).all()


def test_an_interrupted_step_leaves_no_answers_behind(monkeypatch):
    """Ctrl-C in a notebook: what comes next is what comes next, and not the answer to the order before."""
    one, other = (ManiSkillEnv(**SMALL, num_workers=2) for _ in range(2))
    action = one.action_spec.zero()

    def rewards(env):
        env.set_seed(3)
        td = env.reset()
        steps = [env.step(td.set("action", action + 0.1 * t))["next", "reward"] for t in range(3)]
        return torch.stack(steps)

    expected = rewards(one)
    td = other.reset()
    with monkeypatch.context() as patch:
        patch.setattr(other.simulation, "_answers", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            other.step(td.set("action", action))
    assert torch.equal(rewards(other), expected)
    one.close()
    other.close()


def test_shares_are_even_and_name_the_scenes(env):
    assert [(share.start, share.stop) for share in env.simulation._slices] == [(0, 2), (2, 3)]


def test_no_more_processes_than_scenes():
    env = ManiSkillEnv(**{**SMALL, "num_envs": 1}, num_workers=3)
    assert len(env.simulation._processes) == 1
    env.close()


# Both wait for the same answer.
@pytest.mark.parametrize("moment", ["step", pytest.param("reset", marks=pytest.mark.thorough)])
def test_killed_process_is_named(moment):
    env = ManiSkillEnv(**SMALL, num_workers=2)
    td = env.reset()
    pids = [process.pid for process in env.simulation._processes]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(
        WorkerDied, match=rf"Process 2 of env.num_workers=2 \(pid {pids[1]}, scenes 2 to 2\) was killed by SIGKILL"
    ):
        env.rand_step(td) if moment == "step" else env.reset()
    env.close()
    assert gone(pids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control_mode": "telepathy"}, "env.control_mode: telepathy not in supported modes"),
        ({"cameras": ["hand"]}, "env.cameras must be some of"),
        ({"num_workers": 0}, "env.num_workers must be at least 1, got 0"),
    ],
)
def test_errors_are_those_of_one_process(arguments, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillEnv(**{**SMALL, "num_workers": 2, **arguments})


def test_unexpected_error_brings_its_traceback(env):
    options = ManiSkillEnv(**SMALL).simulation.options
    workers = Workers(options, 1, 1)
    with pytest.raises(RuntimeError, match=r"(?s)A process that simulates scenes failed:.*Traceback.*reset"):
        workers.reset([0], ["no seed"])
    workers.close()


def test_processes_end_with_their_parent():
    code = (
        "from gaze_torchrl.envs.maniskill import ManiSkillEnv\n"
        "if __name__ == '__main__':\n"
        f"    env = ManiSkillEnv(**{SMALL!r}, num_workers=2)\n"
        "    print(*[process.pid for process in env.simulation._processes], flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.communicate()
    assert gone(pids)
