"""Multi-stage recipes that can be stopped and rerun."""
