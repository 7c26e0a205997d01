"""Rejection detection on the Triton Inference Server: the embedded host and what it needs to serve a model."""
