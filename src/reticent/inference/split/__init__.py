"""The split channel: the client encodes, the server answers from a code or from features."""
