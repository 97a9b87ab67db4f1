"""How far a sample is from real data, on arrays, tables and text; each metric with its null, what a perfect model would score.

`score` picks by the kind of data, on the host. The functions of `arrays` and `features` are pure JAX and vmap; tables and text need
no JAX.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.metrics import arrays as arrays
  from collapse_jax.metrics import conformers as conformers
  from collapse_jax.metrics import features as features
  from collapse_jax.metrics import series as series
  from collapse_jax.metrics import tables as tables
  from collapse_jax.metrics import text as text
  from collapse_jax.metrics.arrays import PrecisionRecall as PrecisionRecall
  from collapse_jax.metrics.arrays import classifier_accuracy as classifier_accuracy
  from collapse_jax.metrics.arrays import classifier_null_std as classifier_null_std
  from collapse_jax.metrics.arrays import coverage_null as coverage_null
  from collapse_jax.metrics.arrays import duplicates as duplicates
  from collapse_jax.metrics.arrays import entropy as entropy
  from collapse_jax.metrics.arrays import frechet as frechet
  from collapse_jax.metrics.arrays import frechet_null as frechet_null
  from collapse_jax.metrics.arrays import generalisation_null as generalisation_null
  from collapse_jax.metrics.arrays import generalisation_score as generalisation_score
  from collapse_jax.metrics.arrays import mmd as mmd
  from collapse_jax.metrics.arrays import mmd_null_std as mmd_null_std
  from collapse_jax.metrics.arrays import nearest_distance as nearest_distance
  from collapse_jax.metrics.arrays import num_distinct as num_distinct
  from collapse_jax.metrics.arrays import permutation_null as permutation_null
  from collapse_jax.metrics.arrays import precision_recall as precision_recall
  from collapse_jax.metrics.arrays import sliced_wasserstein as sliced_wasserstein
  from collapse_jax.metrics.arrays import sliced_wasserstein_null as sliced_wasserstein_null
  from collapse_jax.metrics.conformers import CoverageMatching as CoverageMatching
  from collapse_jax.metrics.conformers import aligned_rmsd as aligned_rmsd
  from collapse_jax.metrics.conformers import coverage_matching as coverage_matching
  from collapse_jax.metrics.features import clusters as clusters
  from collapse_jax.metrics.features import mauve as mauve
  from collapse_jax.metrics.features import separation as separation
  from collapse_jax.metrics.features import vendi as vendi
  from collapse_jax.metrics.scoring import Score as Score
  from collapse_jax.metrics.scoring import score as score
  from collapse_jax.metrics.series import autocorrelation as autocorrelation
  from collapse_jax.metrics.series import column_correlation as column_correlation
  from collapse_jax.metrics.series import jensen_shannon as jensen_shannon
  from collapse_jax.metrics.series import jensen_shannon_null as jensen_shannon_null

_ARRAYS = (
  "PrecisionRecall",
  "classifier_accuracy",
  "classifier_null_std",
  "coverage_null",
  "duplicates",
  "entropy",
  "frechet",
  "frechet_null",
  "generalisation_null",
  "generalisation_score",
  "mmd",
  "mmd_null_std",
  "nearest_distance",
  "num_distinct",
  "permutation_null",
  "precision_recall",
  "sliced_wasserstein",
  "sliced_wasserstein_null",
)
_HOME = (
  dict.fromkeys(_ARRAYS, "arrays")
  | dict.fromkeys(["clusters", "mauve", "separation", "vendi"], "features")
  | dict.fromkeys(["Score", "score"], "scoring")
  | dict.fromkeys(["autocorrelation", "column_correlation", "jensen_shannon", "jensen_shannon_null"], "series")
  | dict.fromkeys(["CoverageMatching", "aligned_rmsd", "coverage_matching"], "conformers")
  | dict.fromkeys(["arrays", "features", "conformers", "series", "tables", "text"], "")
)

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
