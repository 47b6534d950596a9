"""Evaluation: evaluators, the funnel, and the files that others can score."""
