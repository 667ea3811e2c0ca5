"""Stores of other makes than S3, each a real server on this machine; `make test-stores` runs them."""
