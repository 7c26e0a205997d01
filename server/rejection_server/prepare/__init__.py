"""Makes a checked model repository of any Hugging Face text classifier. Build time only.

source      a hub id or folder: which files are needed, are they whole
describe    labels, lengths and tokenizer of the model
reference   what the original answers, in float32, and its export to ONNX
build       the graph that is served, in the precision asked for
repository  the model repository, written at once or not at all
served      the finished repository on the embedded Triton, asked over gRPC
gate        are the served answers those of the original
pipeline    the steps above, one after the other
"""
