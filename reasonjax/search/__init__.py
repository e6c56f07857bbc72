"""Choosing among sampled answers."""
