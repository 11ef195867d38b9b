"""The forms and answers for the login and the session."""

from typing import Literal

from pydantic import Field

from schemas.common import Answer, Form


class LoginForm(Form):
    """A login. token: an access token. next: an address of this site to open afterwards."""

    token: str = Field(min_length=1)
    next: str = "/"


class SessionAnswer(Answer):
    """The caller. name: the token's name; without authentication anonymous, who may do everything."""

    name: str
    role: Literal["reader", "operator", "admin"]
    version: str
