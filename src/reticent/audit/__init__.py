"""The audit: attackers' scores against the truth, laid beside what is claimed."""
