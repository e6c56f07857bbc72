"""Host memory that loading a Hugging Face directory takes, on a made-up 2.6 GB DeepSeek-V3 (Linux).

python -m experiments.claims.hf_memory --directory=runs/made_up
python -m experiments.claims.hf_memory --directory=runs/made_up --devices=8

The first call makes the directory. On a CPU the weights themselves lie in the same memory, so the
anonymous memory (RssAnon: all but the mapped files) is shown before, at its peak, and after.
"""

import threading
import time
from pathlib import Path

from absl import app, flags

_DIRECTORY = flags.DEFINE_string("directory", None, "Of the checkpoint.", required=True)
_DEVICES = flags.DEFINE_integer("devices", 1, "CPU devices; 8 are a mesh of 2 x 2 x 2.")


def make(directory: str) -> None:
  """Writes a bfloat16 DeepSeek-V3 of random weights, 8 layers of 32 experts."""
  import jax

  from reasonjax.checkpoint import hf
  from reasonjax.models import presets, transformer
  from reasonjax.sharding import place

  config = presets.get("deepseek_v3_671b").replace(
    vocab_size=32000, hidden_size=1024, num_layers=8, num_dense_layers=1, num_heads=16
  )
  config = config.replace(dense_ffn_size=4096, moe_ffn_size=1408, num_routed_experts=32)
  key = jax.random.key(0)
  hf.save(directory, config, place.unbox(transformer.init_variables(config, key)), progress=True)


def anonymous() -> float:
  """This process's RssAnon, 10^9 bytes."""
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("RssAnon"):
      return int(line.split()[1]) * 1024 / 1e9
  raise RuntimeError("/proc/self/status tells no RssAnon; this script needs Linux.")


def main(_) -> None:
  import jax

  jax.config.update("jax_num_cpu_devices", _DEVICES.value)
  from reasonjax.checkpoint import hf
  from reasonjax.sharding import mesh as mesh_lib

  if not Path(_DIRECTORY.value).exists():
    make(_DIRECTORY.value)
    print("made; run again to measure")
    return
  split = {"data": 1, "fsdp": 2, "expert": 2, "context": 1, "tensor": 2}
  mesh = mesh_lib.make(split) if _DEVICES.value == 8 else None
  peak, done = [anonymous()], threading.Event()

  def watch():
    while not done.is_set():
      peak.append(anonymous())
      time.sleep(0.005)

  before, watcher = peak[0], threading.Thread(target=watch)
  watcher.start()
  _, variables = hf.load(_DIRECTORY.value, mesh=mesh)
  done.set()
  watcher.join()
  shards = [s for leaf in jax.tree.leaves(variables) for s in leaf.addressable_shards]
  held = sum(shard.data.nbytes for shard in shards) / 1e9
  print(f"weights {held:.2f} GB; RssAnon before {before:.2f}, peak {max(peak):.2f} GB")


if __name__ == "__main__":
  app.run(main)
