"""Training: assembly from the configuration, the loops, evaluation and what a run leaves behind."""
