"""Tokens that open the API. The database keeps only their hashes: a copy of it opens nothing."""

import hashlib
import secrets
import unicodedata
from datetime import UTC, datetime

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from db import audit
from db.database import reading, reading_rows, writing
from db.tables import Role, Token
from errors import RequestError, TokenExists, TokenNotFound

SECRET_BYTES = 32
# Categories of characters: control, separators of lines and paragraphs, bytes that are not UTF-8.
NOT_IN_A_NAME = ("Cc", "Zl", "Zp", "Cs")
BY_SECRET = select(Token.name, Token.role).where(
    Token.sha256 == bindparam("sha256"), Token.revoked_at.is_(None)
)


def new_secret() -> str:
    """A random token. Its 256 bits cannot be guessed, so a plain SHA-256 of it is enough to keep."""
    return secrets.token_urlsafe(SECRET_BYTES)


def create(
    sessions: sessionmaker[Session], name: str, role: Role, actor: str, secret: str | None = None
) -> str:
    """A new token's secret, which nobody can look up later. A name is never used twice.

    Raises: TokenExists, RequestError for a name that is empty or more than a line of text.
    """
    if not name.strip() or any(unicodedata.category(character) in NOT_IN_A_NAME for character in name):
        raise RequestError("The name of a token is empty, or has a control character or a line break in it.")
    secret = secret or new_secret()
    try:
        with writing(sessions) as session:
            session.add(Token(name=name, role=role, sha256=_hash(secret), created_at=datetime.now(UTC)))
            audit.note(session, actor, "token.create", name, role=role)
    except IntegrityError:
        raise TokenExists(f"There is, or was, a token {name!r}.") from None
    return secret


def find(sessions: sessionmaker[Session], secret: str) -> Row[str, str] | None:
    """Name and role of the token with that secret, unless it is revoked."""
    with reading_rows(sessions) as connection:
        return connection.execute(BY_SECRET, {"sha256": _hash(secret)}).one_or_none()


def list_tokens(sessions: sessionmaker[Session]) -> list[Token]:
    """All that ever were, the oldest first."""
    with reading(sessions) as session:
        return list(session.scalars(select(Token).order_by(Token.id)))


def are_there_any(sessions: sessionmaker[Session]) -> bool:
    """Whether a token was ever made."""
    with reading(sessions) as session:
        return bool(session.scalar(select(func.count(Token.id))))


def revoke(sessions: sessionmaker[Session], name: str, actor: str) -> None:
    """From now on the token opens nothing. Raises: TokenNotFound, also where it is revoked already."""
    with writing(sessions) as session:
        token = session.scalar(select(Token).where(Token.name == name, Token.revoked_at.is_(None)))
        if token is None:
            raise TokenNotFound(f"There is no token {name!r}.")
        token.revoked_at = datetime.now(UTC)
        audit.note(session, actor, "token.revoke", name)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
