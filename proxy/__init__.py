"""The data plane and the command line: carries every exchange, asks the judges, gates the answer."""

__version__ = "0.1.0"
