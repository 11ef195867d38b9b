"""DICOM input and output: instances to a stack, lesions to a SEG. Uses no web framework, database or network.

`incoming` reads uploads; `files` and `nifti` read files on disk.
"""
