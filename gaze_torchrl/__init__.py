"""gaze_torchrl: return-guided gaze for visual reinforcement learning, on TorchRL."""

from importlib.metadata import version

__version__ = version("gaze_torchrl")
