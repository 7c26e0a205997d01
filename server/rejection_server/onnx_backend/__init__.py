"""A stand-in for Triton's C++ `onnxruntime` backend, built on the Python backend and the PyPI onnxruntime.

A model configuration written for the C++ backend loads and runs here unchanged, and one that it refuses is refused
here in the same words. `model.py` is the adapter that Triton loads; every other module works without Triton.
"""
