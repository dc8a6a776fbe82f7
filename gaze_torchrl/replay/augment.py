"""Augmentations as replay-buffer transforms: samples change at random, what is stored stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.envs import Transform

from gaze_torchrl import functional
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.registry import register

__all__ = ["Augmentation", "ColorJitter", "Overlay", "RandomConv", "RandomShift"]

PIXELS: tuple[NestedKey, ...] = ("pixels", ("next", "pixels"))


class Augmentation(Transform):
    """Base of the augmentations: append one to a replay buffer, ``buffer.append_transform(RandomShift())``.

    Every image of a sample changes on its own, and so do the images before and after a step. The buffer's data are
    never written to. With an on-policy loss the probability of an action under the changed image is compared with the
    one under the image it was chosen at, so the ratio is not 1 in the first epoch either.

    Args:
        keys: images [*, C, H, W] in a sample, uint8 or float in [0, 1]; those that are missing are passed over.
        seed: of the random numbers; where they stand is part of the state, so a resumed run goes on exactly.

    Raises:
        KeyError: if a sample has none of the keys.
    """

    def __init__(self, keys: Sequence[NestedKey] = PIXELS, seed: int = 0) -> None:
        super().__init__()
        self.keys, self.generator = list(keys), torch.Generator().manual_seed(seed)

    def augment(self, images: Tensor) -> Tensor:
        """Images [*, C, H, W] to images of the same shape and dtype, drawn with ``self.generator``."""
        raise NotImplementedError

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Change the images of a sample."""
        images = {key: tensordict.get(key, None) for key in self.keys}
        if all(one is None for one in images.values()):
            raise KeyError(f"{type(self).__name__} found none of {self.keys} in the sample: set keys=[...].")
        # A sample of a list storage is made of the stored tensordicts themselves.
        tensordict = tensordict.copy()
        for key, one in images.items():
            if one is not None:
                tensordict.set(key, self.augment(one))
        return tensordict

    def get_extra_state(self) -> dict[str, Any]:
        """Where the random generator stands."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.generator.set_state(state["generator"])


@register("augment", "random_shift")
class RandomShift(Augmentation):
    """DrQ's augmentation: shift every image by some pixels (see `functional.random_shift`).

    Args:
        pad: largest shift along each axis, in pixels, >= 1.
        keys, seed: as for `Augmentation`.

    Raises:
        ValueError: if ``pad`` is not positive.

    Example:
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from tensordict import TensorDict
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8), batch_size=4)
        >>> _ = buffer.append_transform(RandomShift(pad=4))
        >>> _ = buffer.extend(TensorDict({"pixels": torch.zeros(8, 3, 64, 64, dtype=torch.uint8)}, [8]))
        >>> buffer.sample()["pixels"].shape
        torch.Size([4, 3, 64, 64])
    """

    def __init__(self, pad: int = 4, keys: Sequence[NestedKey] = PIXELS, seed: int = 0) -> None:
        check_positive("augment", pad=pad)
        super().__init__(keys, seed)
        self.pad = pad

    def augment(self, images: Tensor) -> Tensor:
        """Shift images [*, C, H, W]."""
        return functional.random_shift(images, self.pad, self.generator)


@register("augment", "color_jitter")
class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue of every image (see `functional.color_jitter`).

    Args:
        brightness, contrast, saturation: factors are uniform in [1 - v, 1 + v], v in [0, 1].
        hue: angles are uniform in [-hue, hue] of a full turn, in [0, 0.5].
        keys, seed: as for `Augmentation`.

    Raises:
        ValueError: if a number is out of range.
    """

    in_channels = 3
    """Channels of the pictures it changes: red, green, blue."""

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        keys: Sequence[NestedKey] = PIXELS,
        seed: int = 0,
    ) -> None:
        self.strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in self.strengths.items():
            limit = 0.5 if name == "hue" else 1
            if not 0 <= value <= limit:
                raise ValueError(f"augment.{name} must lie in [0, {limit}], got {value}.")
        super().__init__(keys, seed)

    def augment(self, images: Tensor) -> Tensor:
        """Change the colours of images [*, 3, H, W]."""
        return functional.color_jitter(images, **self.strengths, generator=self.generator)


@register("augment", "random_conv")
class RandomConv(Augmentation):
    """Filter every image with a random 3x3 convolution: other colours and textures (see `functional.random_conv`).

    Args:
        keys, seed: as for `Augmentation`.
    """

    def augment(self, images: Tensor) -> Tensor:
        """Filter images [*, C, H, W]."""
        return functional.random_conv(images, self.generator)


@register("augment", "overlay")
class Overlay(Augmentation):
    """Mix every image with another one of the sample (see `functional.overlay`).

    Args:
        alpha: share of the other image, in [0, 1).
        keys, seed: as for `Augmentation`.

    Raises:
        ValueError: if ``alpha`` is out of range.
    """

    def __init__(self, alpha: float = 0.5, keys: Sequence[NestedKey] = PIXELS, seed: int = 0) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(f"augment.alpha must lie in [0, 1), got {alpha}.")
        super().__init__(keys, seed)
        self.alpha = alpha

    def augment(self, images: Tensor) -> Tensor:
        """Mix images [*, C, H, W]."""
        return functional.overlay(images, self.alpha, self.generator)
