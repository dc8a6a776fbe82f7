"""The base of the contrastive losses: what the gaze attends to should tell different outcomes apart."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule

from gaze_torchrl.modules import GazeModule
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.objectives.embedding import GazeEmbedding, GlimpseEmbedding

__all__ = ["ContrastiveLoss"]


class ContrastiveLoss(LossModule):
    """Reads triplets, looks at them, embeds them and hands the embeddings to the criterion of a subclass.

    A member of the triplets is a nested tensordict that holds ``member_keys`` and its ``label``. A subclass gives
    `criterion` and nothing else.

    Args:
        gaze_network: a `GazeModule`, the policy's own.
        encoder_network: pixels to features, the policy's own; needed unless ``target="gaze"``, and for its
            ``out_channels`` by ``embedding="projected"`` and ``"glimpse"``.
        proprio_dim: size of the proprioception that ``embedding="glimpse"`` reads, 0 for none.
        embedding: what is compared: ``"pooled"``, features summed under the map; ``"flat"``, all cells;
            ``"projected"``, a trainable projection of the pooled (see `GazeEmbedding`); ``"glimpse"``, one of what lies
            under each fovea, where that is, and the proprioception (see `GlimpseEmbedding`).
        projection: units of the projection.
        center: subtract the mean of the batch: of the features, or with ``"glimpse"`` of the embeddings.
        attention: ``"own"``, each member under its own gaze; ``"anchor"``, all three under the anchor's.
        target: what learns. ``"gaze"``: members hold features, which are constants. ``"encoder"``: members hold pixels,
            and the gaze is constant. ``"both"``: members hold pixels.
        coeff: weight of the loss, >= 0; schedulable (``loss.coeff = 0.05``).
        num_triplets: only the first rows are read, where `TripletReplay` puts its triplets.
        reduction: ``"mean"`` over the valid triplets, ``"sum"`` or ``"none"`` (zero where not valid).

    Raises:
        ValueError: if a number is out of range, a choice is unknown, an encoder is needed, or nothing would be trained;
            when called, if labels or ``valid`` [B] have another shape than the triplets' batch size.
        KeyError: when called with a minibatch that lacks a member's entry, or ``valid``.

    Returns (when called):
        ``loss_contrast``, zero but connected to the graph when no triplet is valid; detached, for logging,
        ``triplet_accuracy`` (share of valid triplets whose positive is closer than the negative) and
        ``triplet_valid`` (valid share of the rows read).

    Reference:
        "Gaze on the Prize", arXiv 2510.08442 (``target="gaze"``); "Return-Based Contrastive Representation Learning for
        Reinforcement Learning", arXiv 2102.10960 (``target="encoder"``). Pooling, centring and weight are our choices.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that `set_keys` can change: the members, a member's label and proprioception, and whether each row is
        valid.
        """

        anchor: NestedKey = ("triplets", "anchor")
        positive: NestedKey = ("triplets", "positive")
        negative: NestedKey = ("triplets", "negative")
        label: NestedKey = "label"
        proprio: NestedKey = "proprio"
        valid: NestedKey = ("triplets", "valid")

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})

    gaze_network: GazeModule
    gaze_network_params: TensorDictParams
    target_gaze_network_params: TensorDictParams
    encoder_network: TensorDictModuleBase
    encoder_network_params: TensorDictParams
    embedding: GazeEmbedding | GlimpseEmbedding
    target_encoder_network_params: TensorDictParams

    out_keys = ["loss_contrast", "triplet_accuracy", "triplet_valid"]  # noqa: RUF012 (TorchRL reads a list)

    def __init__(
        self,
        gaze_network: GazeModule,
        encoder_network: TensorDictModuleBase | None = None,
        *,
        proprio_dim: int = 0,
        embedding: Literal["pooled", "flat", "projected", "glimpse"] = "pooled",
        projection: int = 64,
        center: bool = True,
        attention: Literal["own", "anchor"] = "own",
        target: Literal["gaze", "encoder", "both"] = "gaze",
        coeff: float = 0.1,
        num_triplets: int = 64,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("embedding", embedding, ("pooled", "flat", "projected", "glimpse")),
            ("attention", attention, ("own", "anchor")),
            ("target", target, ("gaze", "encoder", "both")),
            ("reduction", reduction, ("mean", "sum", "none")),
        ):
            if value not in choices:
                raise ValueError(f"contrast.{name} must be one of {choices}, got {value!r}.")
        if not coeff >= 0:
            raise ValueError(f"contrast.coeff must not be negative, got {coeff}.")
        check_positive("contrast", projection=projection, num_triplets=num_triplets)
        if encoder_network is None and (target != "gaze" or embedding in ("projected", "glimpse")):
            raise ValueError(
                f"contrast.target={target} with contrast.embedding={embedding} needs the encoder: pass "
                "encoder_network, a TensorDictModule from pixels to features."
            )
        networks = (("gaze", gaze_network), ("encoder", encoder_network))
        learners = [one for name, one in networks if one is not None and target in (name, "both")]
        if not any(parameter.requires_grad for one in learners for parameter in one.parameters()):
            raise ValueError(
                f"contrast.target={target} has nothing to train, since no parameter there requires a gradient: add "
                "contrast=none, or choose another gaze, encoder or contrast.target."
            )
        self.convert_to_functional(gaze_network, "gaze_network")
        self._network_keys: list[NestedKey] = list(gaze_network.in_keys)
        if encoder_network is not None and target != "gaze":
            self.convert_to_functional(encoder_network, "encoder_network")
            encoded = set(encoder_network.out_keys)
            kept = [key for key in self._network_keys if key not in encoded]
            self._network_keys = [*encoder_network.in_keys, *kept]
        self.attention, self.target, self.num_triplets, self.reduction = attention, target, num_triplets, reduction
        channels = encoder_network.out_channels if embedding in ("projected", "glimpse") else 0  # type: ignore[union-attr]
        names: tuple[str, ...] = gaze_network.gaze.out_names  # type: ignore[assignment]
        # Which of the gaze's outputs is looked through: the map, or each fovea by itself, of which it is the union.
        self._output, self._reads_proprio = 0, embedding == "glimpse" and proprio_dim > 0
        if embedding == "glimpse":
            self._output = names.index("foveae") if "foveae" in names else 0
            maps = getattr(gaze_network.gaze, "num_foveae", 1)
            self.embedding = GlimpseEmbedding(channels, maps, proprio_dim, projection=projection, center=center)
        else:
            self.embedding = GazeEmbedding(embedding, center, channels, projection)
        parameter = next(self.parameters())
        self.embedding.to(parameter)
        self.register_coeff_buffer("coeff", float(coeff), device=parameter.device)
        self._set_in_keys()

    @property
    def member_keys(self) -> list[NestedKey]:
        """Tensordict keys that each member must hold beside its label."""
        own = [self.tensor_keys.proprio] if self._reads_proprio else []
        return [*self._network_keys, *(key for key in own if key not in self._network_keys)]

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        members, names = (keys.anchor, keys.positive, keys.negative), (*self.member_keys, keys.label)
        self.in_keys = [*(unravel_key((member, name)) for member in members for name in names), keys.valid]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    @abstractmethod
    def criterion(self, embeddings: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Loss of each triplet.

        Args:
            embeddings: [3, n, D] of anchors, positives and negatives; finite where not valid, too.
            labels: the members' labels, [3, n].
            valid: triplets that count, [n], bool.

        Returns:
            Losses [n]; those that are not valid will be ignored.
        """

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read the triplets, return the loss."""
        valid = self._get(tensordict, self.tensor_keys.valid)
        shape, valid = valid.shape, valid.flatten()[: self.num_triplets]
        members = {name: self._read(tensordict, name, shape, valid) for name in self.member_keys}
        labels = self._read(tensordict, self.tensor_keys.label, shape, valid)
        if labels.shape != (3, len(valid)):
            raise ValueError(
                f"Expected labels and {self.tensor_keys.valid!r} of the same shape, one number for each triplet, got "
                f"labels [*, {', '.join(map(str, labels.shape[2:]))}]: take their last dimension off, .squeeze(-1)."
            )
        embeddings = self.embed(members, valid)
        # Cosines and logarithms of half precision would be coarse.
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self.criterion(embeddings, labels, valid)
        with torch.no_grad():
            anchor, positive, negative = embeddings.unbind()
            # Strictly closer: of a collapsed embedding, where all is equally close, nothing is right.
            correct = torch.cosine_similarity(anchor, positive, -1) > torch.cosine_similarity(anchor, negative, -1)
            accuracy = (correct & valid).sum() / valid.sum().clamp_min(1)
        return TensorDict(
            {
                "loss_contrast": self.coeff * self._reduce(loss, valid),
                "triplet_accuracy": accuracy,
                "triplet_valid": valid.float().mean(),
            }
        )

    def _read(self, tensordict: TensorDictBase, name: NestedKey, shape: torch.Size, valid: Tensor) -> Tensor:
        """An entry of the three members, [3, n, *], zero where not valid: those rows may hold anything."""
        members = (self.tensor_keys.anchor, self.tensor_keys.positive, self.tensor_keys.negative)
        entries = [self._get(tensordict, unravel_key((member, name))) for member in members]
        lead = len(shape)
        if any(entry.shape[:lead] != shape for entry in entries):
            raise ValueError(
                f"Expected {self.tensor_keys.valid!r} of the triplets' batch size, got {list(shape)} beside {name!r} "
                f"of {[list(entry.shape) for entry in entries]}: a last dimension of 1 is taken off by .squeeze(-1)."
            )
        # cat() and not stack(): it keeps the channels last, where they are.
        entry = torch.cat([entry.reshape(-1, *entry.shape[lead:])[: self.num_triplets] for entry in entries])
        entry = entry.masked_fill_(~valid.repeat(3).reshape(-1, *[1] * (entry.ndim - 1)), 0)
        return entry.unflatten(0, (3, -1))

    @staticmethod
    def _get(tensordict: TensorDictBase, key: NestedKey) -> Tensor:
        entry = tensordict.get(key, None)
        if entry is None:
            raise KeyError(
                f"The contrastive loss reads {key!r}, which the batch does not hold: append TripletReplay to the "
                "buffer, with `member_keys` of this loss as its `members`, or name another key with set_keys()."
            )
        return entry

    def _reduce(self, loss: Tensor, valid: Tensor) -> Tensor:
        loss = torch.where(valid, loss, 0)
        if self.reduction == "none":
            return loss
        return loss.sum() / valid.sum().clamp_min(1) if self.reduction == "mean" else loss.sum()

    def embed(self, members: dict[NestedKey, Tensor], valid: Tensor) -> Tensor:
        """Look at the members and embed what is seen; the gradient flows into the target.

        Args:
            members: entries [3, n, *] of anchors, positives and negatives, by the names in ``member_keys``.
            valid: triplets that count for the centre, [n], bool.

        Returns:
            Embeddings [3, n, D].
        """
        if self.target == "gaze":
            members = {name: entry.detach() for name, entry in members.items()}
        else:
            with self.encoder_network_params.to_module(self.encoder_network):
                members = self.encoder_network(TensorDict(members, [3, len(valid)]))
        dtype = next(self.parameters()).dtype
        inputs = [members[key].to(dtype) for key in self.gaze_network.in_keys]
        looked = [entry[:1] for entry in inputs] if self.attention == "anchor" else inputs
        # look() and not the module itself: the switch `rl_gradient` of the policy is not meant for this loss.
        with self.gaze_network_params.to_module(self.gaze_network):
            attention = self.gaze_network.look(*looked)[self._output]
        if self.target == "encoder":
            attention = attention.detach()
        proprio = [members[self.tensor_keys.proprio].to(dtype)] if self._reads_proprio else []
        embedding = self.embedding(inputs[0], attention.expand(3, *attention.shape[1:]), valid, *proprio)
        return embedding.to(dtype)
