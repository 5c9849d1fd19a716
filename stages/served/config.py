"""How a served model is asked."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from grpo.config.section import Section


class EndpointConfig(Section):
    """A served model."""

    model: str = Field(min_length=1)
    base_url: str | None = None  # such as http://localhost:8000/v1; None: OPENAI_BASE_URL, else OpenAI's own
    # Name of the environment variable with the key; None: OPENAI_API_KEY at the address above, else no key.
    key_env: str | None = None
    concurrency: int = Field(8, ge=1)  # requests at a time
    timeout: float = Field(600.0, gt=0)  # seconds for one completion, from the request to its last token
    retries: int = Field(5, ge=0)  # after a 408, 409, 429, 5xx, a timeout or a broken stream
    price_in: float | None = Field(None, ge=0)  # of a million prompt tokens, in any currency
    price_out: float | None = Field(None, ge=0)  # of a million completion tokens
    # Other fields of the request; null leaves one out: {max_tokens: null, max_completion_tokens: 4096}.
    fields: dict[str, Any] = {}
