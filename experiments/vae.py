"""Autoencoders of pictures, fed on what their decoders make (Gerstgrasser et al. 2404.01413): attributes that vanish.

  python -m experiments.vae
  python -m experiments.vae --networks=linear,mlp --data=mnist5k --latent_dim=16
  python -m experiments.vae --data=FOLDER_OF_IMAGES --num_samples=500

Expected: of linear ones the variance is on the dashed line, a direction dying each time that the noise has taken what it had; under
`replace` rare attributes (dots: their true rates) go first, under `accumulate` later or not.
"""

from absl import flags

from . import common, flag_values

DATA = ("glyphs", "digits", "photos", "mnist5k")
NETWORKS = ("linear", "mlp", "patches")
EMITTED = ("mean", "noise")


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="1000", num_generations=10, num_seeds=10, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string(
    "data",
    "glyphs",
    f"One of {', '.join(DATA)} (which needs the extra data), or the path of a folder of images of one size, whose folders are "
    "attributes, of an .npz or a .csv file.",
  )
  flags.DEFINE_string("networks", "mlp", f"Comma list among {', '.join(NETWORKS)}; linear ones are fitted exactly.")
  flags.DEFINE_string("emit", "mean", f"Of the decoder, one of {', '.join(EMITTED)}.")
  flags.DEFINE_string("latent_dim", "8", "Latent coordinates.")
  flags.DEFINE_string("decoder_variance", "0.02", "Of the decoder's noise, pixels squared.")
  flags.DEFINE_string("amount", "400", "Steps of training a generation.")
  flags.DEFINE_string("width", "64", "Of the hidden layer.")
  flags.DEFINE_string("num_test", "300", "Test rows, and rows of a model that are looked at.")


def simulate(
  workflows,
  networks,
  num_samples,
  data="glyphs",
  emit="mean",
  latent_dim=8,
  decoder_variance=0.02,
  amount=400,
  width=64,
  num_test=300,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""
  from collapse_jax.data import images

  source = images.get(data)

  def task(network, num_samples):
    from collapse_jax import tasks
    from collapse_jax.systems.vae import looked_at

    one = tasks.vae(
      source,
      num_samples,
      latent_dim,
      network=network,
      emit=emit,
      fit="closed_form" if network == "linear" else "gradient",
      decoder_variance=decoder_variance,
      amount=float(amount),
      hidden=(width,),
      num_test=num_test,
    )
    return looked_at(one)

  axes = {"network": list(networks), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="covariance_trace_ratio", **options)
  about = {"data": source.name} | (dict(zip(("height", "width"), source.shape)) if len(source.shape) == 2 else {})
  about |= {"attributes": ",".join(source.names), "rates": source.rates.tolist()}
  return common.related(results, "vae", compare, **about)


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "networks": flag_values.choices("networks", NETWORKS),
    "num_samples": flag_values.integers("num_samples", 2),
    "emit": flag_values.choice("emit", EMITTED),
    "latent_dim": flag_values.integer("latent_dim"),
    "decoder_variance": flag_values.positive("decoder_variance"),
    "amount": flag_values.integer("amount"),
    "width": flag_values.integer("width"),
    "num_test": flag_values.integer("num_test", 2),
  }
  options |= flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}
  from collapse_jax.data import images

  with flag_values.given_as("data"):  # a folder may be large: last
    options["data"] = images.get(flag_values.FLAGS.data)
  return options


def main():
  common.simulate_and_write("results/vae", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
