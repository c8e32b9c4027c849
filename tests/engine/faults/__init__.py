"""Faults of real containers: what is done to each, the code it ends with, and the reason that a person reads."""
