"""The routes of the web API, one file per subject; api.py registers them.

shared.py                 what all routes share: context, blueprints
jobs.py                   segmentation requests, single or in batches, and their progress
job_answers.py            the responses for jobs and batches, from their rows
corrections.py            lesions renamed, deleted or redrawn; structure sets, uncertainty maps
results.py                candidates, segmentations, patients, models
uploads.py                DICOM files that users upload
segmentationui.py         the calls of SegmentationUI's front-end
segmentationui_schemas.py their requests and responses
session.py                the caller's name and role; the login page
operations.py             health, metrics, the operations page, the access check for a proxy
texts.py                  the texts of the login and operations pages, in English and French
"""
