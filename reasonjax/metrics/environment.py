"""What a run ran on: saved beside its results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "reasonjax")


def describe() -> dict:
  """Versions, devices and the command line, JSON-ready."""
  return {
    "versions": {"python": platform.python_version()}
    | {name: _version(name) for name in _PACKAGES},
    "platform": platform.platform(),
    "cores": os.cpu_count(),
    "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "processes": jax.process_count(),
    "command": shlex.join(sys.orig_argv[1:]),
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
