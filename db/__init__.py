"""Results, jobs and audit trail in SQL. Independent of web, broker, archive and models.

tables.py        the tables; a change needs a migration in migrations/
column_types.py  column types that SQLite and PostgreSQL store alike
database.py      the database and its sessions; opening it migrates the tables
jobs.py          the state of a job, under a lease
queue.py         jobs that wait for a worker, and those of dead workers
batches.py       requests for several studies
estimates.py     the time that a model's jobs take
workers.py       the live worker processes
source.py        patient, study and series, from a DICOM header
recording.py     a result recorded in one transaction
numbering.py     the numbers of a patient's next result
segmentations.py recorded segmentations and their newest versions
documents.py     a segmentation as the API returns it
patients.py      patients with results, and their lesions
outbox.py        objects that wait for the archive
deletion.py      deletion of a segmentation or a study
retention.py     removal of what was deleted or ended long ago
tokens.py        the API's tokens, as hashes
audit.py         who changed what, and who read what of a patient
"""
