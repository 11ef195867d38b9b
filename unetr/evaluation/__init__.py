"""Evaluation of a model, with intervals, in a single-file HTML report; and the choice of its thresholds.

evaluate.py        ``python -m unetr evaluate``
operating_point.py ``python -m unetr operating_point``: thresholds chosen, confidence fitted
options.py         the options that choose the cases
truth.py           cases whose lesions are known
scores.py          overlap, surface distances and lesions found of one prediction
case_scores.py     the scores of one case, as numbers and small pictures
statistics.py      estimates with intervals from resampled cases
summary.py         summary statistics over many cases
comparison.py      two models on the same cases
figures.py         the report's figures
pictures.py        pictures of failures
report.py          report.json and report.html
"""
