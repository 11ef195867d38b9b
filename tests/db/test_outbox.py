"""A SEG waits in the database until the archive has it, and is looked for there ever after."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from db import outbox, recording, segmentations
from db.tables import AuditEvent
from errors import SegmentationNotFound
from tests.documents import document_of
from tests.recorded import seg_object

NEVER = datetime(2000, 1, 1, tzinfo=UTC)


def record_stored(sessions, new, number):
    recorded = recording.record(sessions, replace(new, seg=seg_object(f"1.2.{number}")))
    outbox.mark_stored(sessions, recorded, [f"1.2.{number}"])
    return recorded


def test_it_holds_the_objects_bytes_until_the_archive_has_them(sessions, new):
    companion = recording.NewObject("SR", "1.2.8", "1.2", b"report")
    first = recording.record(
        sessions, replace(new, seg=seg_object("1.2.7", b"first"), companions=[companion])
    )
    second = recording.record(sessions, replace(new, seg=seg_object("1.2.9", b"second")))
    assert outbox.pending(sessions, first) == {"1.2.7": b"first", "1.2.8": b"report"}
    assert outbox.pending(sessions, second) == {"1.2.9": b"second"}
    with sessions() as session:
        assert outbox.count(session) == 3
    assert [outbox.store_failed(sessions, first) for _ in range(2)] == [1, 2]
    for _ in range(2):
        outbox.mark_stored(sessions, first, ["1.2.7"])
    document = document_of(sessions, first)
    assert document["segmentation"]["stored"] is True
    assert document["companions"] == [
        {"modality": "SR", "sop_instance_uid": "1.2.8", "series_instance_uid": "1.2", "stored": False}
    ]
    outbox.mark_stored(sessions, first, ["1.2.8"])
    assert document_of(sessions, first)["companions"][0]["stored"] is True
    assert outbox.pending(sessions, first) == {}
    segmentations.delete_segmentation(sessions, second, None)
    assert outbox.pending(sessions, second) == {}


def test_each_stored_seg_is_to_be_checked_once_in_a_while_the_oldest_first(sessions, new):
    waiting = recording.record(sessions, replace(new, seg=seg_object("1.2.1")))
    first, second, deleted = (record_stored(sessions, new, number) for number in (2, 3, 4))
    segmentations.delete_segmentation(sessions, deleted, None)
    assert outbox.not_checked_since(sessions, NEVER, 10) == []
    now = datetime.now(UTC)
    due = outbox.not_checked_since(sessions, now, 10)
    assert [seg.segmentation_id for seg in due] == [first, second]
    assert waiting not in due
    assert (due[0].study_instance_uid, due[0].sop_instance_uid) == ("1.2.3", "1.2.2")
    assert len(outbox.not_checked_since(sessions, now, 1)) == 1
    outbox.note_presence(sessions, first, present=True)
    assert [seg.segmentation_id for seg in outbox.not_checked_since(sessions, now, 10)] == [second]
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert [seg.segmentation_id for seg in outbox.not_checked_since(sessions, later, 10)] == [second, first]


def test_one_that_the_archive_has_lost_is_not_stored_nor_adopted_and_leaves_one_trace(sessions, new):
    lost = record_stored(sessions, new, 2)
    for _ in range(2):
        outbox.note_presence(sessions, lost, present=False)
    document = document_of(sessions, lost)["segmentation"]
    assert document["stored"] is False
    since = datetime.fromisoformat(document["missing_since"])
    assert timedelta(0) <= datetime.now(UTC) - since < timedelta(minutes=1)
    assert segmentations.find_equal(sessions, new.idempotency_key) is None
    with sessions() as session:
        assert outbox.count_missing(session) == 1
        assert [event.action for event in session.scalars(select(AuditEvent))] == ["segmentation.missing"]
    outbox.note_presence(sessions, lost, present=True)
    assert segmentations.find_equal(sessions, new.idempotency_key) == lost


def test_a_deleted_one_is_nobody_s_concern(sessions, new):
    deleted = record_stored(sessions, new, 2)
    segmentations.delete_segmentation(sessions, deleted, None)
    with pytest.raises(SegmentationNotFound):
        outbox.note_presence(sessions, deleted, present=False)
