"""Who is logged in."""

from typing import Literal

from pydantic import (
    Field,
)

from schemas.common import Answer, Form


class LoginForm(Form):
    """token: of one who may come in. next: where to go then, an address of this site."""

    token: str = Field(min_length=1)
    next: str = "/"


class SessionAnswer(Answer):
    """name: the token's; anonymous, who may do everything, where there is no authentication."""

    name: str
    role: Literal["reader", "operator", "admin"]
    version: str
