"""What a run says it ran on."""

import json
import platform
import sys

import jax

from reasonjax.metrics import environment


def test_describe_is_json_and_names_versions_devices_and_command(monkeypatch):
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.pipeline", "--workdir=a"])
  described = json.loads(json.dumps(environment.describe()))
  assert described["versions"]["python"] == platform.python_version()
  assert described["versions"]["jax"] == jax.__version__
  assert described["versions"]["reasonjax"]
  assert described["devices"] == "8 x cpu"
  assert described["processes"] == 1
  assert described["cores"] >= 1
  assert described["command"] == "-m experiments.pipeline --workdir=a"


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
  monkeypatch.setattr(environment, "_PACKAGES", ("jax", "reasonjax-of-nowhere"))
  versions = environment.describe()["versions"]
  assert versions["reasonjax-of-nowhere"] is None
  assert versions["jax"] == jax.__version__
