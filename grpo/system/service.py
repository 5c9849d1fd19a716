"""An OpenAI-compatible service and the key that it gets: one rule for the judge, the teacher and the evaluation.

The environment's key is for the environment's service: an address that a config names gets one only when the config
names its variable too. No key is kept in an attribute, where a repr, a pickle or a debugger's dump would find it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo.errors import UserError, one_line
from grpo.system.http import holds_secret, is_address

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI, KEY_ENV, URL_ENV = "https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL"


@dataclass(frozen=True)
class Service:
    """Where requests go, and the name of the variable with the key that goes with them; None: none does."""

    address: str
    key_env: str | None

    @classmethod
    def chosen(cls, base_url: str | None, key_env: str | None, option: str = "base_url") -> Service:
        """`option`: what gives `base_url`, for messages. Of a wrong address nothing is repeated: it may hold a
        password.

        Raises:
            UserError: an address that is none or holds a secret; a `key_env` that names no variable with a key.
        """
        given = os.environ.get(URL_ENV, "").strip()
        name = option if base_url or not given else URL_ENV
        address = base_url or given or OPENAI
        if not is_address(address):
            raise UserError(f"{name} must be an address like http://localhost:8000/v1")
        if holds_secret(address):
            raise UserError(f"{name} must not hold a user, a password, a query or a fragment; a key goes into key_env")
        if key_env is None and address in (given or OPENAI, OPENAI) and os.environ.get(KEY_ENV, "").strip():
            key_env = KEY_ENV
        if address == OPENAI and key_env is None:
            raise UserError(f"give {option} (or set {URL_ENV}), or set {KEY_ENV} for OpenAI's own service")
        service = cls(address, key_env)
        service.key()
        return service

    def key(self) -> str:
        """Read anew each time; "" where none goes there.

        Raises:
            UserError: the variable holds none.
        """
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            # Some keys look like a name: what may be one by mistake is not repeated.
            named = f" '{self.key_env}'" if re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env) else ""
            raise UserError(f"key_env{named} names no environment variable that is set (give its name, not the key)")
        if not re.fullmatch(r"[!-~]+", key):
            raise UserError(f"key_env: the value of '{self.key_env}' has characters that no HTTP header may hold")
        return key

    def client(self, limit: int) -> AsyncOpenAI:
        """For one batch of requests, to be closed by `async with`; a reply has at most `limit` bytes.

        The library takes key, organisation, project and further headers from OPENAI_... variables, and with them would
        send one service's credentials to another: they go where OPENAI_API_KEY goes.
        """
        from openai import AsyncOpenAI

        from grpo.system.bounded import bounded_client

        key = self.key() or "none"  # a server without keys ignores it
        headers = {"Authorization": f"Bearer {key}"}  # explicit: no OPENAI_... variable replaces it
        client = AsyncOpenAI(
            api_key=key,
            base_url=self.address,
            max_retries=0,
            timeout=None,
            default_headers=headers,
            http_client=bounded_client(self.address, limit),
        )
        if self.key_env != KEY_ENV:
            client.organization = client.project = None
            client._custom_headers = headers
        return client

    def line(self, text: str, limit: int = 300) -> str:
        """One line without the key, which a server may repeat; it is taken out before the text is cut."""
        key = self.key()
        return one_line(text.replace(key, "***") if key else text, limit)

    def __str__(self) -> str:
        return f"{self.address} with {f'the key of {self.key_env}' if self.key_env else 'no key'}"
