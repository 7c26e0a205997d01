"""The version of this package, for its metadata and for `--version`."""

__version__ = "0.1.0"
