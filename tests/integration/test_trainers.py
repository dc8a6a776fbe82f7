"""The components without Hydra: in TorchRL's own trainers, in a user's own loop, under other tensordict keys."""

import copy

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import RenameTransform, RewardSum, TransformedEnv
from torchrl.objectives import SoftUpdate
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms import PPOTrainer, SACTrainer
from torchrl.weight_update import NoWeightSyncScheme

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, qvalue_head, value_head
from gaze_torchrl.objectives import GazePPOLoss, GazeSACLoss, TripletContrastiveLoss
from gaze_torchrl.replay import QuantileMiner, ReturnToGo, TripletReplay, ValueTarget

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

FLAT = {"pixels": "pixels", "proprio": "proprio", "features": "features", "embedding": "embedding"}
NESTED = {
    "pixels": ("sensor", "rgb"),
    "proprio": ("agent", "position"),
    "features": ("vision", "features"),
    "embedding": ("vision", "embedding"),
}
FRAMES, ROLLOUTS, EPOCHS, UPDATES = 128, 3, 2, 3


class Setup:
    """What every script needs: an environment, a policy with a gaze, a collector, a replay-buffer transform."""

    def __init__(self, policy="normal", keys=FLAT, target="gaze"):
        torch.manual_seed(0)
        env = ClutterEnv("easy", num_envs=8, image_size=32, horizon=10, seed=0)
        self.action_spec, self.keys = env.action_spec_unbatched, keys
        self.env = TransformedEnv(env, RewardSum())
        if keys is not FLAT:
            renamed = ["pixels", "proprio"]
            self.env.append_transform(RenameTransform(renamed, [keys[name] for name in renamed]))
        proprio, features = keys["proprio"], keys["features"]
        encoder = FineCNN((4, 8))
        gaze = FovealGaze(8, encoder.geometry(32, 32).size, num_foveae=2)
        self.gaze = GazeModule(gaze, features, foveated=None, gaze_key="look" if keys is not FLAT else "gaze")
        self.readout = GlimpseReadout(
            8,
            proprio_dim=2,
            num_foveae=2,
            hidden=16,
            features=features,
            gaze="look" if keys is not FLAT else "gaze",
            proprio=proprio,
            embedding=keys["embedding"],
        )
        self.actor = gaze_actor(
            encoder, self.gaze, self.readout, self.action_spec, policy=policy, hidden=16, pixels=keys["pixels"]
        )
        self.encoder = self.actor[0].encoder
        self.contrast = TripletContrastiveLoss(
            self.gaze, self.encoder if target != "gaze" else None, target=target, num_triplets=16
        )

    def collector(self):
        """The parameters are shared: there is nothing to send, and the loss's actor is the head without the trunk."""
        kept = ["action", "action_log_prob", self.keys["features"]]
        return Collector(
            self.env,
            TensorDictSequential(self.actor, selected_out_keys=kept),
            frames_per_batch=FRAMES,
            total_frames=ROLLOUTS * FRAMES,
            auto_register_policy_transforms=False,
            weight_sync_schemes={"policy": NoWeightSyncScheme()},
        )

    def buffer(self, labels, transform=None, **options):
        buffer = TensorDictReplayBuffer(batch_size=32, **options)
        if transform is not None:
            buffer.append_transform(transform)
        self.triplets = TripletReplay(
            labels,
            QuantileMiner(),
            capacity=2 * FRAMES,
            num_triplets=16,
            min_steps=64,
            members=self.contrast.member_keys,
            columns={"features": self.keys["features"]},
            skip_repeats=True,  # the PPO tutorial's loop extends the same data in every epoch
        )
        buffer.append_transform(self.triplets)
        return buffer

    def ppo(self):
        critic = value_head(self.readout, hidden=16)
        self.loss = GazePPOLoss(self.actor, critic, auxiliary=self.contrast, normalize_advantage=True)
        # The critic is a head on the embedding: the value of an observation begins with the actor.
        self.gae = GAE(
            gamma=0.9, lmbda=0.95, value_network=TensorDictSequential(self.actor, critic), deactivate_vmap=True
        )
        self.replay = self.buffer(
            ValueTarget(0.9, 0.95), storage=LazyTensorStorage(FRAMES), sampler=SamplerWithoutReplacement()
        )
        return self.learn()

    def sac(self, transform=None):
        critic = qvalue_head(self.readout, self.action_spec, hidden=16)
        self.loss = GazeSACLoss(self.actor, critic, action_spec=self.action_spec, auxiliary=self.contrast)
        self.loss.make_value_estimator(gamma=0.9)
        self.updater = SoftUpdate(self.loss, tau=0.1)
        self.replay = self.buffer(ReturnToGo(0.9), transform, storage=LazyTensorStorage(ROLLOUTS * FRAMES))
        return self.learn()

    def learn(self):
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=1e-3)
        self.before = copy.deepcopy(self.loss.state_dict())
        return self

    def descend(self, minibatch):
        terms = self.loss(minibatch)
        sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return terms

    def trainer(self, trainer_class, **options):
        return trainer_class(
            collector=self.collector(),
            total_frames=ROLLOUTS * FRAMES,
            frame_skip=1,
            loss_module=self.loss,
            optimizer=self.optimizer,
            replay_buffer=self.replay,
            clip_grad_norm=False,
            progress_bar=False,
            **options,
        )

    def changed(self):
        """Names of the parameters that are not what they were."""
        return {name for name, value in self.loss.state_dict().items() if not value.equal(self.before[name])}


def ppo_loop(setup):
    """TorchRL's PPO tutorial."""
    history = []
    collector = setup.collector()
    for rollout in collector:
        for _ in range(EPOCHS):
            with torch.no_grad():
                setup.gae(rollout)
            setup.replay.extend(rollout.reshape(-1))
            history += [setup.descend(minibatch).detach() for minibatch in setup.replay]
    collector.shutdown()
    return history


def sac_loop(setup):
    history = []
    collector = setup.collector()
    for rollout in collector:
        setup.replay.extend(rollout)
        for _ in range(UPDATES):
            history.append(setup.descend(setup.replay.sample()).detach())
            setup.updater.step()
    collector.shutdown()
    return history


def sac_trainer(setup):
    # What RewardSum writes by default is not what SACTrainer logs by default.
    return setup.trainer(
        SACTrainer,
        optim_steps_per_batch=UPDATES,
        target_net_updater=setup.updater,
        episode_reward_key="episode_reward",
    )


def ppo_trainer(setup):
    return setup.trainer(
        PPOTrainer,
        optim_steps_per_batch=None,
        num_epochs=EPOCHS,
        gae=setup.gae,
        weight_update_map={"policy": "loss_module.actor_network"},
    )
