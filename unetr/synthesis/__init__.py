"""Synthetic studies with the true label of every voxel: heads with metastases or a glioma, and spines.

Arrays are (slice, row, column), except in atlas.py.

metastases.py          a post-contrast T1 head with metastases: ``head`` makes one
anatomy.py             the anatomy of a drawn head without lesions
real_heads.py          the anatomy of a real head, made post-contrast
cohorts.py             the kinds of heads, for training and held out
atlas.py               the anatomy of the heads, in MNI space
lesion_shape.py        the shape of a plain metastasis
varied_lesion.py       metastases of many looks
fields.py              interpolation and smooth noise
glioma.py              a head with a glioma, in four sequences
spine.py               a T2 phantom of the lumbar spine
phantom.py             DICOM instances of any volume
phantom_enhanced_mr.py the modules of an Enhanced MR image
"""
