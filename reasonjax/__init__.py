"""reasonjax: DeepSeek-V3/R1-style reasoning models in JAX, from a laptop CPU to a TPU pod."""

__version__ = "0.1.0"
