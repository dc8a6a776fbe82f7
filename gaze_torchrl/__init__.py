"""gaze_torchrl: return-guided gaze for visual reinforcement learning, on TorchRL."""
