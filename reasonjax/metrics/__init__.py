"""Metrics on disk, progress bars, timers, plots and reports."""
