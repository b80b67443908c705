"""Answering queries: one folder per channel, one shape for all of them."""
