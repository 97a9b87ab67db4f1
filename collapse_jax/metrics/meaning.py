"""What the metrics of `score` say: which way is worse, and what the definitions of collapse take them for. Imports no JAX."""

__all__ = ["MEANING"]

# Name -> (the direction that is worse, the measure of `MetricInfo` or ""). What is worse in neither direction is not there: a
# sample as near to real rows as real rows are to each other, for instance, is neither copied nor wrong.
MEANING: dict[str, tuple[str, str]] = {
  # tables
  "marginal_total_variation": ("higher", "risk"),
  "marginal_wasserstein": ("higher", ""),
  "correlation_error": ("higher", ""),
  "association_error": ("higher", ""),
  "category_support": ("lower", "tail"),
  "invented_categories": ("higher", "hallucination"),
  "classifier_auc": ("higher", ""),
  "synthetic_accuracy": ("lower", ""),
  "synthetic_r2": ("lower", ""),
  # arrays
  "frechet_distance": ("higher", "risk"),
  "sliced_wasserstein": ("higher", ""),
  "mmd_squared": ("higher", ""),
  "classifier_accuracy": ("higher", ""),
  "precision": ("lower", ""),
  "recall": ("lower", "tail"),
  "coverage": ("lower", ""),
  "entropy": ("lower", ""),
  "generalisation_score": ("lower", ""),
  # text
  **{f"distinct_{n}": ("lower", "") for n in (1, 2, 3, 4)},
  **{f"distinct_{n}_per_document": ("lower", "") for n in (1, 2, 3, 4)},
  "distinct_adjusted": ("lower", ""),
  "self_bleu": ("higher", ""),
  "repeated_4grams": ("higher", ""),
  "near_duplicates": ("higher", ""),
  "duplicate_documents": ("higher", ""),
  "vocabulary": ("lower", "tail"),
  "token_entropy": ("lower", ""),
  "known_8grams": ("higher", ""),
  "copied_documents": ("higher", ""),
  # all of them
  "duplicate_share": ("higher", ""),
}
