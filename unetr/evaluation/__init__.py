"""Evaluation of a model, with intervals, in a single-file HTML report; and the choice of its thresholds."""
