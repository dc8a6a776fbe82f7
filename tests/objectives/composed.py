"""Any TorchRL loss composed with a contrastive one, small, and data for it."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CrossQLoss,
    DiscreteSACLoss,
    KLPENPPOLoss,
    PPOLoss,
    REDQLoss,
    SACLoss,
    TD3Loss,
)

from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, qvalue_head, value_head
from gaze_torchrl.objectives import TripletContrastiveLoss, with_auxiliary

ON_POLICY = [ClipPPOLoss, KLPENPPOLoss, PPOLoss, A2CLoss]
OFF_POLICY = [SACLoss, DiscreteSACLoss, TD3Loss, REDQLoss, CrossQLoss]
EVERY_LOSS = pytest.mark.parametrize("loss_class", ON_POLICY + OFF_POLICY)
POLICY = {TD3Loss: "deterministic", SACLoss: "tanh_normal", REDQLoss: "tanh_normal", CrossQLoss: "tanh_normal"}


def actions(loss_class):
    return OneHot(4) if loss_class is DiscreteSACLoss else Bounded(-1, 1, (2,))


def networks(loss_class=ClipPPOLoss, seed=0):
    torch.manual_seed(seed)
    encoder, gaze = FineCNN((4, 8)), GazeModule(FovealGaze(8, (8, 8), num_foveae=2), foveated=None)
    readout = GlimpseReadout(8, proprio_dim=3, num_foveae=2, hidden=16)
    spec, policy = actions(loss_class), POLICY.get(loss_class, "normal")
    actor = gaze_actor(encoder, gaze, readout, spec, policy=policy, hidden=16)
    on_policy = loss_class in ON_POLICY
    return actor, value_head(readout, hidden=16) if on_policy else _critic(loss_class, readout, spec), gaze


def _critic(loss_class, readout, spec):
    return qvalue_head(readout, spec, hidden=16)


def options(loss_class):
    if loss_class is DiscreteSACLoss:
        return {"action_space": "one-hot", "num_actions": 4}
    return {} if loss_class in ON_POLICY else {"action_spec": actions(loss_class)}


def losses(loss_class=ClipPPOLoss, seed=0, **more):
    actor, critic, gaze = networks(loss_class, seed)
    auxiliary = TripletContrastiveLoss(gaze)
    loss = with_auxiliary(loss_class)(actor, critic, auxiliary=auxiliary, **options(loss_class), **more)
    if loss_class in OFF_POLICY:
        loss.make_value_estimator(gamma=0.9)
    return loss, actor, critic, gaze


def batch(loss_class=ClipPPOLoss, n=8):
    generator = torch.Generator().manual_seed(0)

    def observation():
        return {
            "pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator),
            "proprio": torch.randn(n, 3, generator=generator),
        }

    def member():
        features = torch.rand(n, 8, 8, 8, generator=generator)
        return TensorDict({"features": features, "label": torch.rand(n, generator=generator)}, [n])

    no = torch.zeros(n, 1, dtype=torch.bool)
    td = TensorDict(
        {
            **observation(),
            "action": actions(loss_class).rand((n,)),
            "next": {**observation(), "reward": torch.randn(n, 1), "done": no, "terminated": no},
            "triplets": {
                **{name: member() for name in ("anchor", "positive", "negative")},
                "valid": torch.ones(n, dtype=torch.bool),
            },
        },
        [n],
    )
    if loss_class in ON_POLICY:
        estimates = {name: torch.randn(n, 1, generator=generator) for name in ("advantage", "value_target")}
        policy = {"action_log_prob": torch.randn(n), "loc": torch.zeros(n, 2), "scale": torch.ones(n, 2)}
        td.update({**estimates, **policy})
    return td


def run(loss, td, seed=0):
    torch.manual_seed(seed)
    return loss(td)
