"""Local differential privacy: each person's own device randomises, and no server is trusted."""
