"""The plain channel: the client sends its input. The baseline, and the attacks' ceiling."""
