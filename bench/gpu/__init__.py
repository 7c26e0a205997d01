"""The command `scripts/bench gpu`: what a GPU makes of the served graphs, alone, beside PyTorch, and behind Triton."""
