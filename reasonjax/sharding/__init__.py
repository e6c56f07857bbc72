"""Devices, named parallelism tables, and putting arrays where they belong."""
