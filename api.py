"""The web API: it takes requests for segmentations and answers with jobs and measured lesions.

    python api.py            serve it, with one worker process
    python api.py token …    create, list and revoke the tokens that let callers in
    python api.py purge …    permanently remove what was deleted, and the jobs that ended, long ago
    gunicorn 'api:wsgi()'    serve it without a worker

The API itself reads and writes SQL, asks the archive for headers, and sends messages to the worker; it never
loads a model. One handler answers every error, whatever its cause, in one form:
``{"error": {"code", "message", "details"}}``.
"""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import SSLError
from types import FrameType
from typing import NoReturn, cast

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from flask import Response, current_app, jsonify, redirect, request
from flask_cors import CORS
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin as SwaggerUI  # type: ignore[import-untyped]
from pydantic import ValidationError
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType
from werkzeug.wrappers import Response as AnyResponse

import access
import broker
import logs
from db import retention, tokens
from db.database import DATABASE_UNAVAILABLE, open_connections, open_database
from errors import (
    ArchiveBusy,
    DatabaseUnavailable,
    InvalidForm,
    MetScopeError,
    RequestError,
    SettingsError,
    Unauthorized,
    UploadBusy,
)
from imaging import upload_parts
from routes import corrections, jobs, operations, results, segmentationui, session, uploads
from routes.shared import THREADS, Context, answer, blueprint
from schemas.errors import ErrorAnswer, ErrorBody
from settings import Settings, load
from supervisor import Supervisor
from unetr import checkpoint_cache
from unetr.served import default_model, invalid_specs
from version import VERSION

MAX_BODY_BYTES = 128 * 1024
MAX_RETENTION_DAYS = 36_500
RETRY_AFTER_S = 5
# Added to Flask's own text for these statuses.
STATUS_ADVICE = {
    405: "Use one of the methods in the Allow header.",
    413: "Send a smaller request.",
    415: "Send the body as JSON, with the header Content-Type: application/json.",
}
UPLOADS = {"studies.upload_studies", "segmentationui.upload_dicom"}
# Endpoints whose body is not JSON.
NON_JSON_ENDPOINTS = {"session.log_in", "session.log_out", "segmentationui.look_up"}
# gunicorn's default. A client beyond this number waits for minutes, even if the API is idle again.
WAITING_CONNECTIONS = 2048
WARM_UP_PATHS = ("/jobs", "/jobs/0", "/patients", "/segmentations/0", "/studies/0/segmentations")

logger = logging.getLogger("metscope.api")
documents = blueprint("documents")


def create_app(settings: Settings) -> OpenAPI:
    """Create the Flask application. Raises: SettingsError if database or broker cannot be opened."""
    app = OpenAPI(
        "metscope",
        info=Info(title="MetScope", version=VERSION, description="Brain metastases. For research use only."),
        doc_ui=False,
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
        validation_error_model=ErrorAnswer,
        validation_error_callback=_refuse_form,
        template_folder=str(Path(__file__).parent / "reports" / "templates"),
    )
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    # A redirect to an address with fewer slashes would be answered in HTML.
    app.url_map.merge_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    sessions = open_database(settings.sqlalchemy_url, connections=THREADS)
    app.extensions["metscope"] = Context(settings, sessions, broker.create(settings))
    access.guard(app, settings, sessions)
    _log_model_problems(settings)
    for part in (jobs, results, corrections, uploads, operations, session):
        app.register_api(part.routes)
    if settings.segmentationui_api:
        app.register_api(segmentationui.routes)
    app.register_api(documents)
    app.register_blueprint(SwaggerUI.register(doc_url="../openapi.json"), url_prefix="/docs")
    app.before_request(_check_body)
    app.register_error_handler(Exception, answer_error)
    if origins := [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]:
        CORS(app, origins=origins)
    return app


def _log_model_problems(settings: Settings) -> None:
    for problem in invalid_specs(settings.models_dir):
        logger.warning("model skipped: %s: %s", problem.code, problem.message)
    try:
        default_model(settings.models_dir, settings.model_path)
    except MetScopeError as error:
        logger.error("no model can be served: %s: %s", error.code, error.message)


def answer_error(error: Exception) -> Response:
    """Answer any error, our own, Flask's or an unforeseen one, in the same form."""
    if isinstance(error, DATABASE_UNAVAILABLE):
        logger.error("the database does not answer (%s)", type(error).__name__)
        error = DatabaseUnavailable("The database does not answer.")
    if isinstance(error, MetScopeError):
        status, code, message, details = error.status, error.code, error.message, error.details
    elif isinstance(error, HTTPException) and error.code is not None:
        status, code, details = error.code, error.name.lower().replace(" ", "_"), {}
        message = f"{error.description or error.name} {STATUS_ADVICE.get(error.code, '')}".rstrip()
    else:
        logger.error(logs.fault(error))
        unforeseen = MetScopeError(f"An internal error occurred in MetScope ({type(error).__name__}).")
        status, code, message, details = unforeseen.status, unforeseen.code, unforeseen.message, {}
    body = ErrorBody(code=code, message=message, details=details)
    response = answer(ErrorAnswer(error=body), status)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = (
            'Basic realm="MetScope", charset="UTF-8"' if access.is_page() else "Bearer"
        )
    if isinstance(error, ArchiveBusy | UploadBusy):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, HTTPException):
        allow = error.get_response().headers.get("Allow")
        if allow:
            response.headers["Allow"] = allow
    return response


def _refuse_form(error: ValidationError) -> NoReturn:
    fields = [
        {"field": ".".join(str(part) for part in item["loc"]) or "body", "problem": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    problems = "; ".join(f"{item['field']}: {item['problem']}" for item in fields) + "."
    raise InvalidForm(problems, {"fields": fields})


def _check_body() -> None:
    if request.endpoint in NON_JSON_ENDPOINTS:
        return
    if request.endpoint in UPLOADS:
        request.max_content_length = upload_parts.UploadLimits.upload_bytes
        request.max_form_parts = uploads.MAX_FILES
        return
    # Flask-OpenAPI treats a body of another type, or one that is not JSON, as an absent one.
    if not request.get_data(cache=True):
        return
    try:
        request.get_json()
    except UnsupportedMediaType:
        raise
    except (BadRequest, RecursionError):
        raise RequestError("The request body is not valid JSON or is nested too deeply.") from None


@documents.get(
    "/openapi.json", responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}}
)
def openapi_document() -> Response:
    """Return this document"""
    return jsonify(cast(OpenAPI, current_app).api_doc)


@documents.get("/docs", responses={302: None})
def docs() -> AnyResponse:
    """Show the API in the browser, to read and to try; needs no internet access"""
    return redirect("/docs/swagger")


def wsgi() -> OpenAPI:
    """Return the application for a WSGI server, configured by the environment. Raises: SettingsError."""
    settings = load()
    _start(settings)
    settings = checkpoint_cache.with_served_model_or_log(settings)
    app = create_app(settings)
    _log_first_token_path(settings, app)
    _warm_up(app)
    return app


def _start(settings: Settings) -> None:
    logs.configure(settings.log_format)
    # Files hold patient data, so only this user may read them.
    os.umask(0o077)


def _log_first_token_path(settings: Settings, app: OpenAPI) -> None:
    if path := access.make_first_token(settings, app.extensions["metscope"].sessions):
        logger.warning("the first start created an admin token: %s", path)


def _warm_up(app: OpenAPI) -> None:
    """Connect and compile statements, so that the first requests do not wait for that."""
    context: Context = app.extensions["metscope"]
    open_connections(context.sessions)
    broker.connect(context.celery)
    tokens.find(context.sessions, "")
    for path in WARM_UP_PATHS:
        with app.test_request_context(path), suppress(MetScopeError):
            app.dispatch_request()
    # Loaded objects stay: without freeze, each garbage collection scans them and stops every thread.
    gc.collect()
    gc.freeze()


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises: SettingsError if the server cannot listen on HOST:PORT."""
    app = create_app(settings)
    _log_first_token_path(settings, app)
    server = _listen(settings, app)
    url = f"http{'s' if server.ssl_adapter else ''}://{settings.host}:{settings.port}"
    print(
        f"MetScope {VERSION} at {url}, for research use only",
        f"  documentation  {url}/docs",
        f"  data folder    {settings.data_dir.resolve()}",
        f"  archive        {settings.archive_url}",
        sep="\n",
        flush=True,
    )
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    _warm_up(app)
    program = [sys.executable, str(Path(__file__).with_name("worker.py")), "--stop-at-eof"]
    worker = Supervisor(program)
    try:
        worker.start()
        server.serve()
    finally:
        server.stop()
        worker.stop()


class LoggingServer(Server):
    """A Cheroot server that writes its own messages to our log."""

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        error = sys.exc_info()[1] if traceback else None
        logger.log(level, msg if error is None else logs.fault(error))


def _listen(settings: Settings, app: OpenAPI) -> LoggingServer:
    """Return a server that listens on HOST:PORT. Raises: SettingsError, also for an unusable certificate."""
    server = LoggingServer(
        (settings.host, settings.port), app,
        numthreads=THREADS, server_name="MetScope", request_queue_size=WAITING_CONNECTIONS,
    )  # fmt: skip
    try:
        if settings.tls_certificate is not None:
            server.ssl_adapter = BuiltinSSLAdapter(str(settings.tls_certificate), str(settings.tls_key))
    except (OSError, SSLError) as error:
        raise SettingsError(f"TLS_CERTIFICATE and TLS_KEY cannot be used: {type(error).__name__}.") from None
    try:
        server.prepare()
    except OSError as error:
        raise SettingsError(
            f"MetScope cannot listen on HOST {settings.host}, PORT {settings.port}: "
            f"{error.strerror or error}."
        ) from None
    return server


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_RETENTION_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {MAX_RETENTION_DAYS}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="api.py", description="Serve MetScope's web API.")
    commands = parser.add_subparsers(dest="command")
    access.add_token_commands(commands)
    purge = commands.add_parser("purge", help="permanently remove old jobs and results deleted long ago")
    purge.add_argument(
        "--days", type=_days, metavar="N", required=True, help="keep what is younger than N days; at least 1"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load()
        _start(settings)
        if options.command == "token":
            access.manage_tokens(open_database(settings.sqlalchemy_url), options)
        elif options.command == "purge":
            before = datetime.now(UTC) - timedelta(days=options.days)
            sessions = open_database(settings.sqlalchemy_url, limited=False)
            counts = retention.purge(sessions, before, access.command_line_actor())
            print(", ".join(f"{name} {count}" for name, count in counts.items()))
        else:
            serve(checkpoint_cache.with_served_model_or_log(settings))
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
