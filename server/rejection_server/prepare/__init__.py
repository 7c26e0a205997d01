"""Makes a checked model repository of any Hugging Face text classifier. Build time only.

source      a hub id (hub) or folder: which files are needed; whole: are they what they should be
adapter     a PEFT adapter merged into its base
onnx_file   the model's own ONNX file, in the form that is built on
describe    labels, lengths and tokenizer of the model; tokenizer: that as the server reads it
edges       texts at which two readings of a model come apart
reference   what a user of transformers' pipeline gets, in float32
export      the original checked, and written as ONNX
proof       what the served form answers in float32
build       the graph that is served, in the precision asked for
repository  the model repository, written at once or not at all
served      the finished repository on the embedded Triton, asked over gRPC
gate        are the served answers those of the original
case        what is prepared and compared: the steps up to proof, one after the other
pipeline    all steps, one after the other
"""
