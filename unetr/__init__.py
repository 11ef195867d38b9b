"""The models: specifications, networks, prediction, synthetic studies, training and evaluation.

The package is named after the first network; it serves any. ``unetr.spec`` does not load torch. A network's
arrays are (x, y, z) in the spec's orientation; volumes outside are (slice, row, column). Only an affine
converts one into the other.

spec.py              the specification of a model
network_spec.py      the networks that a specification can name, with their arguments
network.py           networks built, and their weights read and written
served.py            the models of a folder, and the default model
checkpoint_cache.py  a training checkpoint as MODEL_PATH, imported once
import_checkpoint.py import of a published UNETR
backends.py          CUDA, OpenVINO or torch
preprocess.py        acquired volumes to network inputs
sliding.py           a window that slides over the volume
brain.py             detection of the brain
predict.py           the volumes of a model's inputs to mask and probabilities
mirroring.py         the mean prediction over mirror images
confidence.py        the calibrated probability that a component is a lesion
uncertainty.py       the entropy of a prediction
tutorial.py          the steps of a model for learners
__main__.py          ``python -m unetr STEP``
synthesis/           synthetic studies with their truth
data/                labelled studies from other sources
training/            from labelled studies to a served model
evaluation/          evaluation of a model, and the choice of its thresholds
configs/, weights/   training configurations; the models that come with MetScope
"""
