"""Backup and restore by the commands of docs/operations.md."""

import subprocess
from pathlib import Path

import pytest

from db import jobs, outbox, recording, segmentations
from db.database import open_database
from tests.documents import answer_of, document_of

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def shell(command: str, folder: Path, **environment: str) -> None:
    paths = "/usr/bin:/bin:" + ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    subprocess.run(["sh", "-ec", command], cwd=folder, env={"PATH": paths} | environment, check=True)


def fill(sessions, new):
    """A result that waits for the archive, and a job that is running."""
    recorded = recording.record(sessions, new)
    job_id = jobs.submit(sessions, "1.2.3", "unetr", requested_by="reader").id
    jobs.claim(sessions, job_id, "a", 60.0, 3)
    return recorded, job_id


def spoil(sessions, recorded):
    segmentations.delete_segmentation(sessions, recorded, None)
    jobs.submit(sessions, "1.2.9", "unetr")


def check(url, new, recorded, job_id):
    """All is as it was at the backup, and the running job's lease runs out."""
    sessions = open_database(url)
    lesions = document_of(sessions, recorded)["lesions"]
    assert lesions == [answer_of(lesion) for lesion in new.lesions]
    assert outbox.pending(sessions, recorded) == {new.seg.sop_instance_uid: new.seg.encoded}
    assert [(job.id, job.state) for job in jobs.list_jobs(sessions)] == [(job_id, "running")]
    sessions.kw["bind"].dispose()


def test_sqlite_comes_back_from_a_backup_taken_while_it_is_in_use(tmp_path, new):
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path}/data/metscope.sqlite"
    sessions = open_database(url)
    kept = fill(sessions, new)
    shell('sqlite3 data/metscope.sqlite ".backup metscope.backup"', tmp_path)
    spoil(sessions, kept[0])
    sessions.kw["bind"].dispose()
    shell("cp metscope.backup data/metscope.sqlite", tmp_path)
    shell("rm -f data/metscope.sqlite-wal data/metscope.sqlite-shm", tmp_path)
    check(url, new, *kept)


def test_postgresql_comes_back_from_a_dump(postgresql_server, tmp_path, new):
    url = postgresql_server.create("backup")
    database = {"DATABASE": url.replace("+psycopg", "")}
    sessions = open_database(url)
    kept = fill(sessions, new)
    shell('pg_dump --format=custom --file=metscope.backup "$DATABASE"', tmp_path, **database)
    spoil(sessions, kept[0])
    sessions.kw["bind"].dispose()
    shell(
        "psql \"$DATABASE\" --command 'DROP SCHEMA public CASCADE; CREATE SCHEMA public'",
        tmp_path,
        **database,
    )
    shell('pg_restore --single-transaction --dbname="$DATABASE" metscope.backup', tmp_path, **database)
    check(url, new, *kept)


@pytest.mark.parametrize(
    "command",
    [
        'sqlite3 data/metscope.sqlite ".backup metscope.backup"',
        "cp metscope.backup data/metscope.sqlite",
        'pg_dump --format=custom --file=metscope.backup "$DATABASE"',
        "psql \"$DATABASE\" --command 'DROP SCHEMA public CASCADE; CREATE SCHEMA public'",
        'pg_restore --single-transaction --dbname="$DATABASE" metscope.backup',
    ],
)
def test_the_commands_are_those_of_the_document(command):
    assert command in OPERATIONS
