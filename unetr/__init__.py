"""The model room: specs, networks, preprocessing, prediction, synthetic heads and training.

``unetr.spec`` loads no torch. Arrays are (x, y, z) in the spec's orientation in here, volumes outside are
(slice, row, column); only an affine leads from one to the other.
"""
