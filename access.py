"""Access control of the API: tokens, their roles, and what a browser may do with the answers.

A request carries ``Authorization: Bearer TOKEN``. A browser that has logged in sends the token in a cookie;
for pages, and the results that they link to, it may also send it as the password of Basic authentication. One
rule covers every route, so that a new one is closed unless it is opened here: reading needs a reader, POST an
operator, DELETE and the audit trail an admin; health and login need no token.
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path

from flask import Flask, Response, g, request
from sqlalchemy.orm import Session, sessionmaker

from db import tokens
from db.tables import Role
from errors import Forbidden, TokenExists, Unauthorized
from settings import Settings

ANONYMOUS = "anonymous"
PAGES = ("/operations", "/docs", "/openapi.json")
# What these pages link to: who opened a page with a password can follow its links.
LINKED_ENDPOINTS = {"results.get_segmentation"}
COOKIE = "metscope"
OPEN_ENDPOINTS = {
    "operations.live",
    "operations.ready",
    "session.show_login",
    "session.log_in",
    "session.log_out",
}
RANKS = {role: rank for rank, role in enumerate(Role)}
# POST, because the query is in the body; they change nothing.
READING_ENDPOINTS = {"segmentationui.look_up"}
ADMINS_ENDPOINTS = {"operations.list_audit_events"}
ROLE_OF_METHOD = {"GET": Role.READER, "HEAD": Role.READER, "POST": Role.OPERATOR, "DELETE": Role.ADMIN}
HEADERS = {
    # Answers hold patient data: no proxy or browser may keep them.
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    # With no-referrer a browser would not tell that a form is on this site.
    "Referrer-Policy": "same-origin",
}

logger = logging.getLogger("metscope.access")


def guard(app: Flask, settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Check every request to the app, and add protective headers to every answer."""
    if settings.auth == "off":
        logger.warning("AUTH=off: anyone who can reach %s:%d has full access", settings.host, settings.port)

    @app.before_request
    def check() -> None:
        g.actor, g.role = ANONYMOUS, Role.ADMIN
        # A browser's preflight request (OPTIONS) carries no token.
        if (
            settings.auth == "token"
            and request.endpoint not in OPEN_ENDPOINTS
            and request.method != "OPTIONS"
        ):
            g.actor, g.role = admit(sessions, _needed_role())

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _needed_role() -> Role:
    if request.endpoint in READING_ENDPOINTS:
        return Role.READER
    if request.endpoint in ADMINS_ENDPOINTS:
        return Role.ADMIN
    return ROLE_OF_METHOD.get(request.method, Role.ADMIN)


def admit(sessions: sessionmaker[Session], needed: Role, method: str | None = None) -> tuple[str, Role]:
    """Check the request's token and return its name and role.

    method: that of the request that a proxy asks about; None: of this request.
    Raises: Unauthorized, Forbidden.
    """
    token = tokens.find(sessions, _secret())
    if token is None:
        raise Unauthorized("The token is unknown or revoked.")
    name, role = token
    # A browser sends password and cookie automatically.
    by_itself = request.authorization is None or request.authorization.type != "bearer"
    if by_itself and (method or request.method) not in {"GET", "HEAD"}:
        refuse_other_sites()
    if RANKS[Role(role)] < RANKS[needed]:
        raise Forbidden(f"Token {name} has the role {role}; this request needs the role {needed}.")
    return name, Role(role)


def refuse_other_sites() -> None:
    """Raise Forbidden unless the browser's headers show that the request comes from a page of this site."""
    site = request.headers.get("Sec-Fetch-Site")
    # Without TLS a browser may send only Origin. It is compared with the Host header, because Flask has no
    # host for names like met_scope; "null", the origin of a page that hides its own, has no host either.
    origin = request.headers.get("Origin", "").partition("://")[2]
    is_here = origin != "" and origin == request.headers.get("Host")
    if site != "same-origin" and (site is not None or not is_here):
        raise Forbidden("The form was sent from another site.")


def is_page() -> bool:
    """Return whether the request is for a page that users open in a browser."""
    return request.path.startswith(PAGES)


def _secret() -> str:
    authorization = request.authorization
    if authorization is not None and authorization.type == "bearer" and authorization.token:
        return authorization.token
    is_basic = authorization is not None and authorization.type == "basic"
    password = authorization.password if authorization is not None and is_basic else None
    if password and is_page():
        return password
    # For other addresses the cookie counts: a browser that was asked for a password sends it everywhere.
    if cookie := request.cookies.get(COOKIE):
        return cookie
    if password and request.endpoint in LINKED_ENDPOINTS:
        return password
    raise Unauthorized("The request has no token.")


def make_first_token(settings: Settings, sessions: sessionmaker[Session]) -> Path | None:
    """Create an admin's token at the first start with AUTH=token, in a file that only this user can read.

    Returns the file; None if tokens have been created before, or with AUTH=off.
    """
    if settings.auth == "off" or tokens.are_there_any(sessions):
        return None
    secret = tokens.new_secret()
    path = settings.first_token_path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written before the row, so that the secret is never lost; mode 0600, and renamed once the row is there.
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    try:
        tokens.create(sessions, "first", Role.ADMIN, "first start", secret)
    except TokenExists:
        Path(unfinished).unlink()
        return None
    return Path(unfinished).rename(path)


def add_token_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``token create NAME --role ROLE``, ``token list`` and ``token revoke NAME``."""
    actions = commands.add_parser("token", help="manage access tokens").add_subparsers(
        dest="action", required=True
    )
    create = actions.add_parser("create", help="create a token and print it; it cannot be shown again")
    create.add_argument(
        "name", metavar="NAME", help="name of its owner; shown in jobs and in the audit trail"
    )
    create.add_argument("--role", choices=[str(role) for role in Role], default=str(Role.READER))
    actions.add_parser("list", help="list names, roles and dates")
    actions.add_parser("revoke", help="revoke a token").add_argument("name", metavar="NAME")


def command_line_actor() -> str:
    """Return the user of the command line, for the audit trail."""
    return f"command line, user {os.getuid()}"


def manage_tokens(sessions: sessionmaker[Session], options: argparse.Namespace) -> None:
    """Run a ``token`` command. Raises: TokenExists, TokenNotFound, RequestError."""
    actor = command_line_actor()
    if options.action == "create":
        print(tokens.create(sessions, options.name, Role(options.role), actor))
    elif options.action == "revoke":
        tokens.revoke(sessions, options.name, actor)
    else:
        for token in tokens.list_tokens(sessions):
            revoked = f", revoked {token.revoked_at:%Y-%m-%d}" if token.revoked_at else ""
            print(f"{token.name}: {token.role}, created {token.created_at:%Y-%m-%d}{revoked}")
