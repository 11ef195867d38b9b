"""Who read what is written down on either database, in order, with the time of the read."""

from datetime import UTC, datetime

from bench.parts import wait_until
from db import audit
from db.database import writing


def test_reads_are_written_in_their_order_once_the_database_takes_them(sessions):
    noted = audit.Reads(sessions)
    subjects = [f"1.2.{number}" for number in range(200)]
    with writing(sessions) as session:
        audit.note(session, "dr", "job.request", "1")
        for subject in subjects:
            noted.note("dr", f"study{audit.READ}", subject, why="test")
        over = datetime.now(UTC)
    wait_until(lambda: len(audit.events(sessions, 500, kind="read")) == len(subjects), "200 reads")
    events = audit.events(sessions, 500, kind="read")
    assert [event.subject for event in reversed(events)] == subjects
    assert {(event.actor, event.action, str(event.details)) for event in events} == {
        ("dr", "study.read", "{'why': 'test'}")
    }
    assert all(event.at <= over for event in events)
    assert [event.action for event in audit.events(sessions, 500, kind="change")] == ["job.request"]
