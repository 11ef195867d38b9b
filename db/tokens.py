"""Tokens for the API. The database stores only their hashes: a copy of it gives no access."""

import hashlib
import secrets
from datetime import UTC, datetime

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import reading, reading_rows, writing
from db.tables import Role, Token
from errors import RequestError, TokenExists, TokenNotFound
from names import is_name

SECRET_BYTES = 32
TOKEN_BY_SECRET = select(Token.name, Token.role).where(
    Token.sha256 == bindparam("sha256"), Token.revoked_at.is_(None)
)


def new_secret() -> str:
    """Return a random token. Its 256 bits cannot be guessed, so it is enough to store its plain SHA-256."""
    return secrets.token_urlsafe(SECRET_BYTES)


def create(
    sessions: sessionmaker[Session], name: str, role: Role, actor: str, secret: str | None = None
) -> str:
    """Create a token and return its secret, which cannot be looked up later. A name is never used twice.

    Raises: TokenExists, RequestError for a name that shows nothing or is more than a line of text.
    """
    if not is_name(name):
        raise RequestError(
            "The name of the token shows nothing, or it contains a line break or another control character."
        )
    secret = secret or new_secret()
    try:
        with writing(sessions) as session:
            session.add(Token(name=name, role=role, sha256=_hash(secret), created_at=datetime.now(UTC)))
            audit.note(session, actor, "token.create", name, role=role)
    except IntegrityError:
        raise TokenExists(f"The name {name!r} is or was used for another token.") from None
    return secret


def find(sessions: sessionmaker[Session], secret: str) -> Row[str, str] | None:
    """Return name and role of the token with that secret; None if it is unknown or revoked."""
    with reading_rows(sessions) as connection:
        return connection.execute(TOKEN_BY_SECRET, {"sha256": _hash(secret)}).one_or_none()


def list_tokens(sessions: sessionmaker[Session]) -> list[Token]:
    """Return all tokens, the revoked ones too, oldest first."""
    with reading(sessions) as session:
        return list(session.scalars(select(Token).order_by(Token.id)))


def are_there_any(sessions: sessionmaker[Session]) -> bool:
    """Return whether a token was ever created."""
    with reading(sessions) as session:
        return bool(session.scalar(select(func.count(Token.id))))


def revoke(sessions: sessionmaker[Session], name: str, actor: str) -> None:
    """Revoke the token, effective at once. Raises: TokenNotFound, also if it is already revoked."""
    with writing(sessions) as session:
        token = session.scalar(select(Token).where(Token.name == name, Token.revoked_at.is_(None)))
        if token is None:
            raise TokenNotFound(f"There is no token {name!r}.")
        token.revoked_at = datetime.now(UTC)
        audit.note(session, actor, "token.revoke", name)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
