"""The viewer's login: a page that takes a token once and keeps it in a cookie that no script can read."""

import re

from flask import Response, g, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

import access
from db import tokens
from routes.shared import answer, blueprint, context, has_viewer
from routes.texts import language, texts
from schemas.session import LoginForm, SessionAnswer
from version import VERSION

MAX_SESSION_S = 12 * 3600
# Of the viewer, and of a service without one, which has nothing at the viewer's address.
VIEWER, OPERATIONS = "/", "/operations"
# An address that starts with two slashes, or with a slash and a backslash, names another host.
OWN_ADDRESS = re.compile(r"/(?![/\\])[!-~]*")

routes = blueprint("session")


@routes.get("/session", responses={200: SessionAnswer})
def get_session() -> Response:
    """Get the caller's name and role, and the version of the service"""
    return answer(SessionAnswer(name=g.actor, role=g.role, version=VERSION))


@routes.get(
    "/login", security=[], responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
)
def show_login() -> Response:
    """Show the page that asks for a token and then opens the address of this site after ``?next=``

    The address is not escaped and may have a query of its own, because a proxy cannot escape it.
    """
    return _page(request.query_string.decode(errors="replace").removeprefix("next="), refused=False)


@routes.post(
    "/login",
    security=[],
    responses={303: None, 401: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def log_in(form: LoginForm) -> AnyResponse:
    """Log in from the page: set a cookie with the token and redirect to ``next``"""
    access.refuse_other_sites()
    if tokens.find(context().sessions, form.token) is None:
        return _page(form.next, refused=True)
    response = redirect(_own_address(form.next), 303)
    response.set_cookie(
        access.COOKIE,
        form.token,
        max_age=MAX_SESSION_S,
        httponly=True,
        samesite="Lax",
        secure=request.headers.get("X-Forwarded-Proto", request.scheme) == "https",
    )
    return response


@routes.post("/logout", security=[], responses={303: None})
def log_out() -> AnyResponse:
    """Delete the cookie and redirect to the login page"""
    access.refuse_other_sites()
    response = redirect("/login", 303)
    response.delete_cookie(access.COOKIE)
    return response


def _own_address(address: str) -> str:
    """Return the address if it is on this site, otherwise the start page: no link may leave the site."""
    if OWN_ADDRESS.fullmatch(address) and address != VIEWER:
        return address
    return VIEWER if has_viewer() else OPERATIONS


def _page(address: str, *, refused: bool) -> Response:
    page = render_template(
        "login.html",
        version=VERSION,
        next=_own_address(address),
        refused=refused,
        language=language(),
        text=texts(),
    )
    response = Response(page, 401 if refused else 200, content_type="text/html; charset=utf-8")
    response.headers["Vary"] = "Accept-Language"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    )
    return response
