"""Held-out measurement and its error bars."""
