"""``gaze-export``: a trained agent as files that need neither its environment nor pickle."""

from gaze_torchrl.export.folder import export_run, load_policy
from gaze_torchrl.export.policy import ExportedPolicy

__all__ = ["ExportedPolicy", "export_run", "load_policy"]
