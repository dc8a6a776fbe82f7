"""The gaze as a TensorDict module, optionally conditioned on proprioception."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from gaze_torchrl.modules.checks import read_inputs
from gaze_torchrl.modules.fixed import NoGaze

__all__ = ["GazeModule"]


class GazeModule(TensorDictModuleBase):
    """A gaze as a TensorDict module: reads ``features``, writes ``("gaze", ...)`` and ``foveated``.

    For half precision use ``torch.autocast``: places are at least float32, since a mean in half precision has steps of
    a whole cell, and layers of half-precision parameters (``.half()``) do not take them.

    Args:
        gaze: a gaze; its ``out_names`` say what it returns: ``map`` first, then, where it has a location, ``mean``,
            ``covariance`` and ``foveae``.
        features: key of the features [*, C, h, w].
        foveated: key under which features * map [*, C, h, w] is written; None where nothing reads it, such as
            before a `GlimpseReadout`.
        gaze_key: the outputs go to ``(gaze_key, name)``.
        rl_gradient: whether the gradient of what reads the outputs trains the gaze. Off, only losses that call
            `look` themselves do, such as the contrastive one.
        film: (features, proprioception) to features, such as a `FiLM`: what the gaze sees, while everything else
            still reads the features as they are. None for a gaze that sees them too.
        proprio: key of the proprioception [*, P]; read only with ``film``, and then second of ``in_keys``.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from gaze_torchrl.modules import FiLM, FovealGaze
        >>> module = GazeModule(FovealGaze(32, (16, 16)), film=FiLM(32, proprio_dim=2))
        >>> td = module(TensorDict({"features": torch.rand(5, 32, 16, 16), "proprio": torch.rand(5, 2)}, [5]))
        >>> td["gaze", "mean"].shape, td["foveated"].shape
        (torch.Size([5, 1, 2]), torch.Size([5, 32, 16, 16]))
    """

    def __init__(
        self,
        gaze: nn.Module,
        features: NestedKey = "features",
        foveated: NestedKey | None = "foveated",
        gaze_key: NestedKey = "gaze",
        rl_gradient: bool = True,
        film: nn.Module | None = None,
        proprio: NestedKey = "proprio",
    ) -> None:
        super().__init__()
        self.gaze, self.film = gaze, film
        self.rl_gradient = rl_gradient
        names: tuple[str, ...] = gaze.out_names  # type: ignore[assignment]
        self.in_keys = [unravel_key(key) for key in ([features] if film is None else [features, proprio])]
        self.foveated = None if foveated is None else unravel_key(foveated)
        self._written = [unravel_key((gaze_key, name)) for name in names]
        if foveated is not None:
            self._written.append(self.foveated)
        self.out_keys = list(self._written)  # select_out_keys() may leave fewer

    def look(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The gaze's outputs, with a gradient whatever ``rl_gradient`` says: what auxiliary losses call.

        Args:
            *inputs: features [*, C, h, w] and, with ``film``, proprioception [*, P]: one per key of ``in_keys``.

        Returns:
            What the gaze returns, named by its ``out_names``.
        """
        return self.gaze(*inputs if self.film is None else [self.film(*inputs)])

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the gaze and the foveated features into the tensordict."""
        inputs = read_inputs(self, tensordict, "put the encoder before it; film reads the proprioception, too.")
        outputs = self.look(*inputs)
        if not self.rl_gradient:
            outputs = tuple(output.detach() for output in outputs)
        if self.foveated is not None:
            # A map of ones changes nothing, and the plain CNN shall not pay for a product.
            outputs = (*outputs, inputs[0] if isinstance(self.gaze, NoGaze) else inputs[0] * outputs[0].unsqueeze(-3))
        for key, output in zip(self._written, outputs, strict=True):
            tensordict.set(key, output)
        return tensordict
