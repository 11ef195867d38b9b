"""The routes of the web API, one file per subject; api.py puts them together.

shared.py      what every route works with
jobs.py        segmentations asked for, one by one or in batches, and how far they have come
results.py     candidates, segmentations, patients, models
studies.py     DICOM files sent by people
operations.py  health, metrics, the operations page, access for a proxy
"""
