"""gaze-bench: variants of an agent on the same settings and seeds, and what their differences are worth."""
