"""The paper's comparison on the demo model, with what artists do instead. ``python dev/host benchmarks.comparison``.

From the SAEs that do not ship over the choice of every steering's strength to the table, in Markdown. Everything is
kept in ``dev/work/comparison``, so an interrupted run resumes, and a later one prints again.

1. *prepare*: unedited images of the tuning seeds, which set the limits of the measures of artifacts
   (artifacts/both.py), and the SAEs (saes.py);
2. *tune*: every steering at every strength and number of features, on tuning seeds; the best mean of UA, IRA and CRA
   wins, as in the paper. Replacement is not tuned: the nodes' defaults;
3. *table*: every row on reporting seeds, in rounds, each with seeds of its own.
"""

from .stages import main

__all__ = ["main"]
