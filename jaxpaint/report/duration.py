"""How long a report takes, before there is anything to report: for times left and dry runs."""

from __future__ import annotations

# Measured on two CPU cores, in seconds of a processor: 5.8 for 16 plans on 50 documents, 12.1 for 59 on 400, 16.7 for
# 123 on 1,500, 33.1 for 123 on 9,000. These three are within a quarter of each.
BASE = 6.0  # figures and page
A_PLAN = 0.07
A_SCORE = 1.8e-5  # of a plan on a document


def report_seconds(plans: int, documents: int) -> float:
    """Of a study's plans, on so many documents of all tasks together: intervals, figures, tables and page."""
    return BASE + A_PLAN * plans + A_SCORE * plans * documents
