"""The config files that take an argument give models that build."""

import pytest

from configs.pretrain import variant
from reasonjax.core import config as config_lib
from reasonjax.models.attention_config import MLAConfig
from reasonjax.models.config import ModelConfig


@pytest.mark.parametrize("name", [*variant.ATTENTION, "recurrent"])
def test_each_variant_builds_and_is_what_it_is_called(name):
  model = config_lib.build(ModelConfig, variant.get_config(name).model.to_dict())
  if name == "recurrent":
    assert model.recurrent is not None
    assert isinstance(model.attention, MLAConfig)
  else:
    assert type(model.attention).__name__.lower() == f"{name}config"
