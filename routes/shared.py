"""What every route works with: settings, sessions, broker, archive, models."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from celery import Celery
from flask import Response, current_app, g
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel
from sqlalchemy.orm import Session, sessionmaker

import broker
from db import audit
from errors import ArchiveBusy, ModelNotFound
from health import Health
from orthanc.archive import Archive, open_archive
from schemas.errors import ErrorAnswer
from settings import Settings
from unetr.served import default_model, served_models
from unetr.spec import ModelSpec

THREADS = 24
# Together fewer than there are threads: the rest is for health, for a proxy's auth_request and for lists.
WAITING_REQUESTS = 8
ARCHIVE_REQUESTS = 8
UPLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Context:
    """What the views work with. ``waiting`` keeps requests that wait for a job from taking every thread,
    ``asking`` those that wait for the archive, ``uploads`` those that upload; ``uploading`` keeps several
    uploads from taking the memory.
    """

    settings: Settings
    sessions: sessionmaker[Session]
    celery: Celery
    waiting: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(WAITING_REQUESTS)
    )
    asking: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(ARCHIVE_REQUESTS)
    )
    uploading: threading.Lock = field(default_factory=threading.Lock)
    uploads: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(UPLOADS_AT_ONCE)
    )
    per_thread: threading.local = field(default_factory=threading.local)

    @cached_property
    def health(self) -> Health:
        """What ``ready`` reports."""
        return Health(self.settings, self.sessions, self.celery)

    @cached_property
    def announcer(self) -> broker.Announcer:
        """Tells the workers about jobs."""
        return broker.Announcer(self.celery)

    @cached_property
    def reads(self) -> audit.Reads:
        """Notes who reads what."""
        return audit.Reads(self.sessions)

    @property
    def archive(self) -> Archive:
        """This thread's own, for uploads: an archive is not to be shared between threads."""
        if not hasattr(self.per_thread, "archive"):
            self.per_thread.archive = open_archive(self.settings)
        return cast(Archive, self.per_thread.archive)

    @contextmanager
    def asking_archive(self) -> Iterator[Archive]:
        """Provide this thread's archive to a request, to a few at a time. Raises: ArchiveBusy."""
        if not self.asking.acquire(blocking=False):
            raise ArchiveBusy("Other requests wait for the archive.")
        try:
            yield self.archive
        finally:
            self.asking.release()

    @property
    def default_model(self) -> ModelSpec:
        return default_model(self.settings.models_dir, self.settings.model_path)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """Looked up anew each time, so that a model added to the folder is there without a restart."""
        return served_models(self.settings.models_dir, self.settings.model_path)

    def model_id(self, asked: str | None) -> str:
        """Of the model asked for, or of the default one. Raises: ModelNotFound."""
        known = self.models
        model = asked or self.default_model.id
        if model not in known:
            raise ModelNotFound(f"There is no model {model!r}; there are: {', '.join(sorted(known))}.")
        return model


def context() -> Context:
    return cast(Context, current_app.extensions["metscope"])


def note_read(what: str, *subjects: str, **details: str) -> None:
    """Have the audit trail say that the caller was shown something of a patient.

    what: the kind of thing. subjects: UIDs or ids, never a PatientID; a row for each.
    """
    # Nobody asks where the API rehearses (api._warm_up).
    if "actor" in g:
        for subject in dict.fromkeys(subjects):
            context().reads.note(g.actor, what + audit.READ, subject, **details)


def answer(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json() + "\n", status, content_type="application/json")


def blueprint(name: str, url_prefix: str | None = None) -> APIBlueprint:
    """Routes that need a token and may answer with an error."""
    return APIBlueprint(
        name,
        name,
        url_prefix=url_prefix,
        abp_security=[{"token": []}],
        abp_responses={422: ErrorAnswer, "default": ErrorAnswer},
        operation_id_callback=_operation_id,
    )


def _operation_id(*, name: str, path: str, method: str) -> str:
    """The view's name, so that generated clients read well."""
    return name
