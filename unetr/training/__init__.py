"""Training, from labelled studies to a served model: configuration, preparation, training, export.

config.py      training configurations, in YAML
preparation.py cases prepared once and stored
samples.py     windows cut out of prepared cases
train.py       ``python -m unetr train``
adapt.py       ``python -m unetr adapt``: a model trained further on a department's own studies
export.py      ``python -m unetr export``: the best checkpoints as a served model
"""
