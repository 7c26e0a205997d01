"""A linear model over word n-grams: the second teacher, which sees the wording and nothing else.

It is as good as a small fine-tuned encoder on these sources and errs elsewhere, so the two together err less.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from training.data import Row
from training.metrics import Floats

LENGTHS = (300, 800, 3000)
"""Characters of a text that each of the averaged models sees: openings tell most, and the rest tells something."""
_WORDS = r"(?u)[\w']+|[^\w\s]"


class NGrams:
    """One logistic regression for each of :data:`LENGTHS`, over TF-IDF weights of one to four words."""

    def __init__(self, rows: Sequence[Row], weights: Sequence[float]) -> None:
        self._models = []
        for length in LENGTHS:
            vectors = TfidfVectorizer(ngram_range=(1, 4), sublinear_tf=True, min_df=2, token_pattern=_WORDS)
            model = LogisticRegression(C=20, max_iter=300)
            model.fit(
                vectors.fit_transform([row.text[:length] for row in rows]),
                [row.label for row in rows],
                sample_weight=list(weights),
            )
            self._models.append((length, vectors, model))

    def log_odds(self, texts: Sequence[str]) -> Floats:
        """Log odds [texts] that each is a refusal."""
        each = [
            model.decision_function(vectors.transform([text[:length] for text in texts]))
            for length, vectors, model in self._models
        ]
        mean: Floats = np.mean(each, axis=0)
        return mean
