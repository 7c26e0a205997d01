"""The names one can choose from; imported before anything is installed, so that help is answered at once."""

MODELS = ("bundled", "distilroberta")
WORKLOADS = ("mixed", "short", "long", "batch")
SCENARIOS = ("bursts", "callers", "fairness", "repeats", "soak", "growth")
OFFERED = (0.5, 0.8, 0.95)
"""Arrival rates of the open loop, as shares of the closed loop's best."""
