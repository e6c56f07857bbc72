"""Benchmarks with verifiers, one file each."""
