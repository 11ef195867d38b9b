"""Lesions in a mask: components, volume, diameters, measurability. NumPy on hd.Volume; no DICOM files."""
