"""The plain channel, where the client sends its input: baseline, and the attacks' ceiling."""
