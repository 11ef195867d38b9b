"""DICOM in and out: instances to a stack, lesions to a SEG. Knows no web, database or network.

`incoming` reads what people upload; `files` and `nifti` read what lies on disk.
"""
