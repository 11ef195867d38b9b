"""DICOM and NIfTI input and output: instances to a stack, lesions to a SEG.

Uses no web framework, database or network.

uploads.py        uploaded files and ZIP archives, checked
upload_parts.py   the parts of an upload, read within limits
files.py          DICOM files on disk, grouped by series
nifti.py          NIfTI files, read and written
sequences.py      the kind of a series and its contrast; other kinds are refused here
series.py         the post-contrast T1 of a study; another body part or no contrast is refused here
inputs.py         the series of a model with several inputs; missing or distant ones are refused here
frames.py         the images of a series, frame by frame; an unsuitable image is refused here
pixels.py         the stored values of an image; unreadable pixels are refused here
stack.py          a complete volume of a series; faulty geometry is refused here
grid.py           the grid of a volume; too large a volume is refused here
identity.py       patient, study, series and content must agree
labelled.py       the series that a SEG or structure set labels
codes.py          the coded concepts in MetScope's objects
derived.py        the attributes that derived objects share
seg.py            writer of SEG
seg_read.py       reader of SEG
sr.py             writer of structured reports
rtstruct.py       writer of RT Structure Sets
rtstruct_read.py  reader of RT Structure Sets
parametric_map.py writer of the uncertainty map
"""
