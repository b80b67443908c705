"""Readers of real sets, one file each; rows and digests are checked on loading."""
