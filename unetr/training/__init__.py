"""Training, from labelled studies to a served model: configuration, preparation, training, export.

config.py      training configurations, in YAML
preparation.py cases prepared once and stored
samples.py     windows cut out of prepared cases
train.py       ``python -m unetr train``
export.py      ``python -m unetr export``: the best checkpoints as a served model
"""
