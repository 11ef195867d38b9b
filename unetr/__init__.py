"""The models: specs, networks, preprocessing, prediction, synthetic heads and training.

``unetr.spec`` does not load torch. A network's arrays are (x, y, z) in the spec's orientation; volumes
outside are (slice, row, column). Only an affine converts one into the other.
"""
