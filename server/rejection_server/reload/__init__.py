"""The exchange of a classifier's version in a server that goes on answering.

repository  what Triton is given in place of a prepared repository: each model at the versions that are to be loaded
exchange    the steps from one version to another
control     the socket by which a command asks a running server for them
cli         the commands `reload`, `rollback` and `versions`
"""
