"""Objectives as pure functions of arrays."""
