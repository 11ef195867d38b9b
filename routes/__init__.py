"""The routes of the web API, one file per subject; api.py puts them together.

shared.py      what every route works with
jobs.py        segmentations asked for, one by one or in batches, and how far they have come
corrections.py lesions renamed, deleted or redrawn; structure sets, maps of uncertainty
results.py     candidates, segmentations, patients, models
studies.py     DICOM files sent by people
segmentationui.py  the calls of SegmentationUI's front-end; segmentationui_schemas.py: their shapes
session.py     who asks; the login
operations.py  health, metrics, the operations page, access for a proxy
texts.py       what the login and the operations page say, in English and French
"""
