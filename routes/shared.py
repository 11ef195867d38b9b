"""The context that all routes share: settings, sessions, broker, archive, models."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from celery import Celery
from flask import Response, current_app, g, request
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel
from sqlalchemy.orm import Session, sessionmaker

import broker
from db import audit
from errors import ArchiveBusy
from health import Health
from orthanc.archive import Archive, open_archive
from schemas.errors import ErrorAnswer
from settings import Settings
from submission import Submission
from unetr.served import default_model, find_spec, served_models
from unetr.spec import ModelSpec

THREADS = 24
# Together fewer than THREADS: the rest serves health checks, a proxy's auth_request and lists.
WAITING_REQUESTS = 8
ARCHIVE_REQUESTS = 8
UPLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Context:
    """The connections and limits that the views share.

    Three semaphores keep requests from taking every thread: ``waiting`` those that wait for a job, ``asking``
    those that wait for the archive, ``uploads`` uploads. ``uploading`` keeps several uploads from taking the
    memory.
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
        """Return the health checks, which ``ready`` reports."""
        return Health(self.settings, self.sessions, self.celery)

    @cached_property
    def announcer(self) -> broker.Announcer:
        """Return the announcer, which tells the workers about jobs."""
        return broker.Announcer(self.celery)

    @cached_property
    def reads(self) -> audit.Reads:
        """Return the log of reads for the audit trail."""
        return audit.Reads(self.sessions)

    @property
    def archive(self) -> Archive:
        """Return this thread's archive, for uploads: threads must not share one."""
        if not hasattr(self.per_thread, "archive"):
            self.per_thread.archive = open_archive(self.settings)
        return cast(Archive, self.per_thread.archive)

    @contextmanager
    def asking_archive(self) -> Iterator[Archive]:
        """Yield this thread's archive, to a few requests at a time. Raises: ArchiveBusy."""
        if not self.asking.acquire(blocking=False):
            raise ArchiveBusy("Too many requests are waiting for the archive.")
        try:
            yield self.archive
        finally:
            self.asking.release()

    @property
    def default_model(self) -> ModelSpec:
        return default_model(self.settings.models_dir, self.settings.model_path)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """Return the served models by id, read each time so that a new model needs no restart."""
        return served_models(self.settings.models_dir, self.settings.model_path)

    def model(self, model_id: str | None = None) -> ModelSpec:
        """Return the model with that id, or the default one. Raises: ModelNotFound."""
        return find_spec(self.settings, model_id or None)


def context() -> Context:
    return cast(Context, current_app.extensions["metscope"])


def submission() -> Submission:
    """Return the requests for jobs of this request's caller."""
    return Submission(context().sessions, context().announcer.tell, g.actor)


def has_viewer() -> bool:
    """Return whether the viewer is at this address too: only the proxy that serves it sends this header."""
    return "X-Forwarded-Proto" in request.headers


def note_read(kind: str, *subjects: str, **details: str) -> None:
    """Note in the audit trail that the caller read patient data.

    kind: the kind of data. subjects: UIDs or ids, never a PatientID; one row each.
    """
    # Requests of the warm-up (api._warm_up) have no caller.
    if "actor" in g:
        for subject in dict.fromkeys(subjects):
            context().reads.note(g.actor, kind + audit.READ, subject, **details)


def answer(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json() + "\n", status, content_type="application/json")


def blueprint(name: str, url_prefix: str | None = None) -> APIBlueprint:
    """Return a blueprint whose routes need a token and may answer with an error."""
    return APIBlueprint(
        name,
        name,
        url_prefix=url_prefix,
        abp_security=[{"token": []}],
        abp_responses={422: ErrorAnswer, "default": ErrorAnswer},
        operation_id_callback=_operation_id,
    )


def _operation_id(*, name: str, path: str, method: str) -> str:
    """Return the view's name, so that generated clients read well."""
    return name
