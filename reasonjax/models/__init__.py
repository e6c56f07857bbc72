"""The DeepSeek-V3 architecture, one idea a file."""
