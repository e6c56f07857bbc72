"""Each fast path against its reference in one run: ratios of times, and the compiler's bytes.

python -m experiments.bench --config=configs/bench/laptop.py --workdir=runs/bench --cpu_devices=1
"""

from experiments import launch


def main(config, workdir: str) -> None:
  from reasonjax.metrics.throughput import compare, temporary_bytes

  run = launch.build(config, **dict.fromkeys(("rows", "length", "group", "repeats", "vocab"), int))

  def measure(*_):
    times = {name: vars(compare(*pair, repeats=run.repeats)) for name, pair in _times(run).items()}
    sizes = {name: [temporary_bytes(*each) for each in pair] for name, pair in _memory(run)}
    return {"times": times, "bytes": sizes}

  result = launch.stage(run, workdir, "bench", measure)
  for name, row in result["times"].items():
    print(f"{name}: {row['seconds'] * 1e3:.1f} ms, {row['ratio']:.2f} times as fast")
  for name, (small, large) in result["bytes"].items():
    print(f"{name}: {small / 1e6:,.1f} MB instead of {large / 1e6:,.1f} MB")


def _times(run) -> dict:
  """Name -> (fast path, reference), each a function without arguments."""
  import jax

  from reasonjax.inference.engine import Engine
  from reasonjax.inference.logits import Sampling
  from reasonjax.models.transformer import Transformer
  from reasonjax.sharding import place
  from reasonjax.train import state

  ids = jax.random.randint(jax.random.key(1), (run.rows, run.length), 3, run.model.vocab_size)
  variables = place.unbox(state.init_variables(run.model, jax.random.key(0)))

  def gradient(implementation):
    model = Transformer(run.model.replace(moe_implementation=implementation))
    step = jax.jit(jax.grad(lambda params: model.apply({**variables, "params": params}, ids).sum()))
    return lambda: step(variables["params"])

  def generate(group):
    """`rows` completions of `length` tokens, none of which ends early."""
    sizes = {"prompt_buckets": (run.length,), "new_token_buckets": (run.length,)}
    engine = Engine(run.model, variables, eos_id=run.model.vocab_size, rows=run.rows, **sizes)
    prompts = ids[: run.rows // group].tolist()
    sampling = Sampling(run.length, samples=group)
    return lambda: engine.generate(prompts, sampling, jax.random.key(2)).token_BxT

  forward = jax.jit(lambda variables, ids: Transformer(run.model).apply(variables, ids))
  uncached = lambda: [forward(variables, ids) for _ in range(run.length)]
  return {
    "grouped experts, gradient, against a loop": (gradient("grouped"), gradient("loop")),
    "decoding over the latent cache, against full forward passes": (generate(1), uncached),
    "one prefill a prompt, against one a sample": (generate(run.group), generate(1)),
  }


def _memory(run):
  """Pairs of (function, *arguments) whose temporary memory is compared."""
  import jax
  import jax.numpy as jnp

  from reasonjax.losses import lm

  tokens = jax.ShapeDtypeStruct((run.rows, run.length), jnp.int32)
  hidden = jax.ShapeDtypeStruct((*tokens.shape, run.model.hidden_size), jnp.float32)
  head = jax.ShapeDtypeStruct((run.vocab, run.model.hidden_size), jnp.float32)

  def log_probs(chunk):
    score = lambda h, w, t: lm.score_tokens(h, w, t, chunk=chunk).logp_BxT.sum()
    return jax.grad(score, argnums=(0, 1)), hidden, head, tokens

  yield "log-probabilities in chunks of 128", (log_probs(128), log_probs(None))


if __name__ == "__main__":
  launch.run(main)
