"""Which workers live."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from db import workers
from db.tables import Worker


def living(sessions, silent_s=60.0):
    with sessions() as session:
        return {worker.id: worker.loaded_models for worker in workers.living(session, silent_s)}


def silence(sessions, worker_id, period):
    with sessions.begin() as session:
        session.get_one(Worker, worker_id).seen_at = datetime.now(UTC) - period


def test_a_worker_lives_while_it_is_seen_and_until_it_stops(sessions):
    assert living(sessions) == {}
    workers.seen(sessions, "a", [])
    workers.seen(sessions, "b", ["unetr"])
    workers.seen(sessions, "a", ["unetr"])
    assert living(sessions) == {"a": ["unetr"], "b": ["unetr"]}
    silence(sessions, "a", timedelta(seconds=90))
    assert living(sessions) == {"b": ["unetr"]}
    workers.gone(sessions, "b")
    assert living(sessions) == {}


def test_one_that_vanished_before_the_clock_was_set_back_does_not_live_on(sessions):
    workers.seen(sessions, "a", [])
    silence(sessions, "a", -timedelta(hours=2))
    assert living(sessions) == {}


def test_one_that_vanished_a_day_ago_is_forgotten(sessions):
    for worker in ("long ago", "lately"):
        workers.seen(sessions, worker, [])
    silence(sessions, "long ago", timedelta(days=2))
    silence(sessions, "lately", timedelta(hours=2))
    workers.seen(sessions, "now", [])
    with sessions() as session:
        assert set(session.scalars(select(Worker.id))) == {"lately", "now"}
