"""The data plane and the command line: carries every exchange, asks the judges, gates the answer."""
