"""Strings in, scores out."""
