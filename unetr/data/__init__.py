"""Readers for labelled studies from other sources, in several layouts, and a data sheet about them.

datasets.py       the labelled studies of a folder, in any layout
cases.py          a labelled study, and the selection of its labels
nifti_layouts.py  the layouts of nnU-Net, the Decathlon and BraTS
dicom_layout.py   series and SEGs as DICOM files
options.py        the options that select labels
explore.py        ``python -m unetr explore``: the data sheet
data_sheet.py     the numbers and the picture of a study
explore_page.py   the data sheet as an HTML page
download_msd.py   ``python -m unetr download_msd``: a public data set
"""
