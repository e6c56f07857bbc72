"""Optimizers and learning-rate schedules from configs."""
