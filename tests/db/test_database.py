"""The database opens on either system, is migrated once, waits for other writers and keeps its promises."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import JSON, CheckConstraint, Connection, column, delete, inspect, select, table, text
from sqlalchemy.exc import IntegrityError, StatementError

from db import jobs, outbox, recording, segmentations
from db.database import alembic_config, migrating, open_database, writing
from db.documents import MEASURED
from db.tables import AuditEvent, Base, Job, Outbox, Study
from errors import SettingsError
from schemas.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    SegmentTask,
    StructureSetTask,
    UncertaintyTask,
)
from tests.documents import answer_of, document_of
from tests.recorded import seg_object

ROOT = Path(__file__).parents[2]


def missing_values(connection: Connection) -> dict[str, None]:
    """What a lesion has lost when the database has been downgraded: None in each column that is not there."""
    present = {column["name"] for column in inspect(connection).get_columns("measurements")}
    return dict.fromkeys(set(MEASURED) - present)


def event_at(at: datetime) -> AuditEvent:
    return AuditEvent(at=at, action="test", subject="x", details={})


def test_the_migrated_schema_is_that_of_the_tables(sessions):
    with sessions.kw["bind"].connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        built = inspect(connection)
        for table in Base.metadata.sorted_tables:
            checks = {check["name"] for check in built.get_check_constraints(table.name)}
            assert checks == {c.name for c in table.constraints if isinstance(c, CheckConstraint)}


def test_migrations_go_down_and_up_again_on_data(empty_url, new):
    sessions = open_database(empty_url)
    jobs.submit(sessions, "1.2.3", "unetr")
    recorded = recording.record(sessions, new)
    outbox.mark_stored(sessions, recorded, [new.seg.sop_instance_uid])
    engine = sessions.kw["bind"]
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    with migrating(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    assert jobs.list_jobs(sessions) == []
    recording.record(sessions, new)
    engine.dispose()


def test_a_seg_that_waits_survives_the_migration_of_its_file_into_the_database(empty_url, new, tmp_path):
    sessions = open_database(empty_url)
    waiting = recording.record(sessions, new)
    engine = sessions.kw["bind"]
    with pytest.raises(CommandError, match="wait in the outbox"), migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0002")
    assert outbox.pending(sessions, waiting) == {new.seg.sop_instance_uid: new.seg.encoded}
    with sessions.begin() as session:
        session.execute(delete(Outbox))
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0002")
        lost = missing_values(connection)
        (tmp_path / "seg.dcm").write_bytes(b"an older file")
        moved = text("UPDATE segmentations SET outbox_path = :path")
        connection.execute(moved, {"path": str(tmp_path / "seg.dcm")})
    (tmp_path / "seg.dcm").rename(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match=r"seg.dcm, which waits for the archive, is not on this machine"):
        open_database(empty_url)
    (tmp_path / "elsewhere").rename(tmp_path / "seg.dcm")
    with migrating(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    assert outbox.pending(sessions, waiting) == {new.seg.sop_instance_uid: b"an older file"}
    lesions = document_of(sessions, waiting)["lesions"]
    assert lesions == [answer_of(lesion) | lost for lesion in new.lesions]
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(text("DELETE FROM segmentations"))
    engine.dispose()


def test_lesions_survive_the_migration_that_brings_their_confidence(empty_url, new):
    sessions = open_database(empty_url)
    sure = [replace(lesion, mean_probability=0.9, confidence=0.81237) for lesion in new.lesions]
    recorded = recording.record(sessions, replace(new, lesions=sure))
    outbox.mark_stored(sessions, recorded, [new.seg.sop_instance_uid])
    before = document_of(sessions, recorded)["lesions"]
    assert [lesion["confidence"] for lesion in before] == [0.8124, 0.8124]
    engine = sessions.kw["bind"]
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0005")
        lost = missing_values(connection)
    with migrating(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    assert "confidence" in lost
    assert document_of(sessions, recorded)["lesions"] == [lesion | lost for lesion in before]
    engine.dispose()


def test_a_series_uid_may_occur_in_several_studies_from_its_migration_on(empty_url, new):
    sessions = open_database(empty_url)
    recorded = recording.record(sessions, new)
    outbox.mark_stored(sessions, recorded, [new.seg.sop_instance_uid])
    before = document_of(sessions, recorded)
    engine = sessions.kw["bind"]
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0007")
        lost = missing_values(connection)
        copy = text(
            "INSERT INTO series (id, series_instance_uid, study_ref) "
            "SELECT 77, series_instance_uid, study_ref FROM series"
        )
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(copy)
    with migrating(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    before["lesions"] = [lesion | lost for lesion in before["lesions"]]
    assert document_of(sessions, recorded) == before
    elsewhere = replace(new.source, study_instance_uid="1.2.9", patient_id="MS-2")
    second_id = recording.record(sessions, replace(new, source=elsewhere, seg=seg_object("1.9")))
    outbox.mark_stored(sessions, second_id, ["1.9"])
    assert document_of(sessions, second_id)["study_instance_uid"] == "1.2.9"
    assert segmentations.current_result(sessions, "1.2.3", "1.2.3.4") == recorded
    with pytest.raises(CommandError, match="several studies"), migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0007")
    assert document_of(sessions, recorded) == before
    engine.dispose()


# What a job's row had before its task named its kind, and what it has now.
TASKS_BEFORE = [
    (None, SegmentTask()),
    ({"inputs": {"T1": "1.2", "FLAIR": "1.3"}}, SegmentTask(inputs={"T1": "1.2", "FLAIR": "1.3"})),
    (
        {"correct": "s-1", "rename": {"2": "pons"}, "delete": [1, 3]},
        CorrectTask(segmentation_id="s-1", rename={2: "pons"}, delete=(1, 3)),
    ),
    ({"measure": "1.2.9", "corrects": None}, MeasureTask(sop_instance_uid="1.2.9")),
    ({"measure": "1.2.9", "corrects": "s-1"}, MeasureTask(sop_instance_uid="1.2.9", corrects="s-1")),
    ({"restore": "s-1", "corrects": "s-2"}, RestoreTask(segmentation_id="s-1", corrects="s-2")),
    ({"rtstruct": "s-1"}, StructureSetTask(segmentation_id="s-1")),
    ({"uncertainty": "s-1"}, UncertaintyTask(segmentation_id="s-1")),
]


def former_key(study_uid: str, task: dict | None) -> str:
    """The key of a request before its task named its kind."""
    key = f"{study_uid}//unetr"
    return f"{key}/{sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()}" if task else key


def test_a_job_of_each_kind_survives_the_migration_that_names_its_kind(empty_url):
    sessions = open_database(empty_url)
    ids = [jobs.submit(sessions, f"1.2.{n}", "unetr", task=now).id for n, (_, now) in enumerate(TASKS_BEFORE)]
    rows = table("jobs", column("id"), column("task", JSON(none_as_null=True)), column("request_key"))
    engine = sessions.kw["bind"]
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0008")
        before = {row.id: row for row in connection.execute(select(rows))}
        assert [before[job_id].task for job_id in ids] == [old for old, _ in TASKS_BEFORE]
        assert [before[job_id].request_key for job_id in ids] == [
            former_key(f"1.2.{n}", old) for n, (old, _) in enumerate(TASKS_BEFORE)
        ]
        for job_id, (old, _) in zip(ids, TASKS_BEFORE, strict=True):
            connection.execute(rows.update().where(rows.c.id == job_id).values(task=old))
    with migrating(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
    assert [jobs.get(sessions, job_id).task for job_id in ids] == [now for _, now in TASKS_BEFORE]
    # The same request again is the same job.
    again = [
        jobs.submit(sessions, f"1.2.{n}", "unetr", task=now).id for n, (_, now) in enumerate(TASKS_BEFORE)
    ]
    assert again == ids
    engine.dispose()


def test_the_same_inputs_in_another_order_are_the_same_request(sessions):
    inputs = {"T1": "1.2", "FLAIR": "1.3"}
    turned = dict(reversed(inputs.items()))
    first, second = (
        jobs.submit(sessions, "1.2.3", "glioma", task=SegmentTask(inputs=chosen)).id
        for chosen in (inputs, turned)
    )
    assert first == second


def test_opening_again_keeps_the_data(sessions, url, job_id):
    reopened = open_database(url)
    assert jobs.get(reopened, job_id).study_instance_uid == "1.2.3"
    reopened.kw["bind"].dispose()


OPEN = "import sys; from db.database import open_database; open_database(sys.argv[1]).kw['bind'].dispose()"


def test_processes_that_start_together_all_get_an_up_to_date_database(empty_url):
    starts = [subprocess.Popen([sys.executable, "-c", OPEN, empty_url], cwd=ROOT) for _ in range(2)]
    assert [start.wait(timeout=60) for start in starts] == [0, 0]
    sessions = open_database(empty_url)
    assert jobs.list_jobs(sessions) == []
    sessions.kw["bind"].dispose()


def test_threads_that_open_a_new_database_together_all_succeed(empty_url):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(open_database, [empty_url] * 8))
    for sessions in opened:
        assert jobs.list_jobs(sessions) == []
        sessions.kw["bind"].dispose()


def test_foreign_keys_are_enforced(sessions):
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(Study(study_instance_uid="1.2.3", patient_ref=77))


def test_an_error_of_the_database_quotes_no_values(sessions):
    with pytest.raises(IntegrityError) as refused, sessions.begin() as session:
        session.add(Study(study_instance_uid="1.2.3", description="Doe^Jane", patient_ref=77))
    assert "INSERT INTO studies" in str(refused.value)
    assert "Doe" not in str(refused.value)


def test_a_state_that_does_not_exist_is_refused(sessions, job_id):
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.get_one(Job, job_id).state = "lost"


def test_times_come_back_in_utc(sessions):
    summer = datetime(2024, 7, 1, 14, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    with sessions.begin() as session:
        session.add(event_at(summer))
    with sessions() as session:
        at = session.scalars(select(AuditEvent.at)).one()
    assert at == summer
    assert at.isoformat() == "2024-07-01T12:30:00.123456+00:00"


def test_a_time_without_zone_is_refused(sessions):
    with pytest.raises(StatementError, match="no time zone"), sessions.begin() as session:
        session.add(event_at(datetime(2024, 7, 1)))


DIE = """
import os, sys
from datetime import UTC, datetime
from db.database import open_database, writing
from db.documents import MEASURED
from db.tables import AuditEvent
with writing(open_database(sys.argv[1])) as session:
    session.add(AuditEvent(at=datetime.now(UTC), action="test", subject="x", details={}))
    session.flush()
    os._exit(9)
"""


def test_a_process_that_dies_inside_a_transaction_leaves_nothing_and_blocks_nobody(sessions, url):
    assert subprocess.run([sys.executable, "-c", DIE, url], cwd=ROOT, check=False, timeout=30).returncode == 9
    with writing(sessions) as session:
        assert session.scalars(select(AuditEvent)).all() == []
        session.add(event_at(datetime.now(UTC)))


def test_writers_that_read_first_wait_for_each_other(sessions, job_id):
    def increment(_: int) -> None:
        with writing(sessions) as session:
            job = session.get_one(Job, job_id, with_for_update=True)
            job.attempts += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(40)))
    assert jobs.get(sessions, job_id).attempts == 40


def test_sqlite_lets_readers_read_while_one_writes(tmp_path):
    sessions = open_database(f"sqlite:///{tmp_path / 'metscope.sqlite'}")
    with sessions() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    with writing(sessions) as session:
        session.add(event_at(datetime.now(UTC)))
        session.flush()
        assert jobs.list_jobs(sessions) == []
    sessions.kw["bind"].dispose()


def test_sqlite_makes_the_folder_it_is_to_live_in(tmp_path):
    open_database(f"sqlite:///{tmp_path / 'new' / 'data' / 'metscope.sqlite'}").kw["bind"].dispose()
    assert (tmp_path / "new" / "data" / "metscope.sqlite").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "not a SQLAlchemy URL"),
        ("mysql://host/metscope", "'mysql'"),
        ("postgresql+psycopg://reader:hunter2@127.0.0.1:1/metscope", "cannot be opened"),
        ("sqlite:////proc/metscope.sqlite", "cannot be opened"),
    ],
    ids=["text", "mysql", "nobody-listens", "not-writable"],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url, message):
    with pytest.raises(SettingsError, match="DATABASE_URL") as raised:
        open_database(url)
    assert message in raised.value.message
    assert "hunter2" not in raised.value.message


def test_a_database_of_a_newer_metscope_is_refused(empty_url):
    sessions = open_database(empty_url)
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="9999"):
        open_database(empty_url)
    sessions.kw["bind"].dispose()
