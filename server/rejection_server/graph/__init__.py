"""Turns an exported classifier into the graph that Triton serves: ragged, with probabilities, int8. Build time only."""
