"""The requests and responses of the API, one file per subject; the OpenAPI document is generated from them.

Requests (``Form``) reject unknown keys. Responses (``Answer``) have all their fields: an unknown value is
null, never left out.

common.py      fields and base classes of several subjects
errors.py      the response to a failed request
jobs.py        segmentation requests, single or in batches, and their progress
corrections.py corrections of a segmentation
results.py     candidates, segmentations, patients, models
uploads.py     uploaded DICOM files
session.py     login and session
operations.py  health checks, the audit trail, a proxy's access check
tasks.py       the tasks of jobs, stored in their rows
"""
