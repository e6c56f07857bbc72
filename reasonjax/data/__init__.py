"""Tokenizers, packing and resumable iterators."""
