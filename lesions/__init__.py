"""Lesions in a mask: components, volume, diameters, measurability. NumPy on hd.Volume; no DICOM files.

measure.py       the lesions of a mask and all their measurements
diameters.py     long and short axis at sub-pixel precision
axial.py         patient-axial planes, and resampling to them
measurability.py measurability by RANO-BM
matching.py      matching of the lesions in two masks
"""
