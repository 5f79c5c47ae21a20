"""The section of the recipe about translation by an LLM."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from prealign.config.sections import Count, Section


class TranslationConfig(Section):
    """Translation of the source words by an LLM behind any OpenAI-compatible endpoint (`launchers/translate.py`).

    The endpoint's key comes from the environment alone. The result is one word list a language,
    ``<data.dir>/llm/llm-<language>.tsv``, to be listed under `languages.*.dictionaries`::

        translation: {model: gpt-4o, input_price: 2.5, output_price: 10, language_names: {zh: Simplified Chinese}}
        translation: {model: Qwen3-32B, base_url: "http://127.0.0.1:8000/v1", concurrency: 64}
    """

    model: str
    """Its name, as the endpoint knows it."""
    base_url: str | None = None
    """The endpoint, up to and with ``/v1``; without it `OPENAI_BASE_URL` of the environment, else OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key (any value will do for an endpoint without keys)."""
    language_names: dict[str, str] = {}
    """What the prompt calls a language of the recipe where its code does not say enough."""
    instructions: str | None = None
    """In place of `prealign.lexicon.llm.prompt.INSTRUCTIONS`: what is wanted of a translation. Other instructions,
    another model or another language name ask for every word anew."""
    top_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the source words with at least `lexicon.min_count` occurrences, most frequent first, that is translated
    (`lexicon.top_fraction` then takes its share of the words that have a translation)."""
    words_per_request: Count = 50
    """Words asked for at once."""
    reply_format: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    """How JSON is asked for. `auto` starts with a schema and steps down when the endpoint refuses."""
    request: dict[str, Any] = {}
    """Merged verbatim into the body of every request, such as ``{temperature: 0, max_completion_tokens: 8000}``."""
    requests_per_minute: Annotated[float, Field(gt=0.0)] = 300.0
    """At most; fewer where the endpoint asks to wait."""
    concurrency: Count = 8
    """Requests in flight at once."""
    timeout: Annotated[float, Field(gt=0.0)] = 120.0
    """Seconds until a reply must have come in whole."""
    attempts: Count = 8
    """Tries of one request before its words are asked for in smaller ones."""
    backoff: Annotated[float, Field(gt=0.0)] = 1.0
    """Seconds of the first wait after a failed try; doubles up to a minute, with jitter. Retry-After goes before it."""
    input_price: Annotated[float, Field(ge=0.0)] | None = None
    """For a million input tokens, in any currency; for the dry run and the account."""
    output_price: Annotated[float, Field(ge=0.0)] | None = None
    """For a million output tokens."""
    encoding: str = "o200k_base"
    """The tiktoken encoding that estimates tokens (fetched by tiktoken; without network the recipe's tokenizer)."""

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        if url is None:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("found credentials or a query in the URL; keys come from the environment alone")
        return url

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            raise ValueError("expected the name of an environment variable, not a key")  # the value is not shown
        return name

    @field_validator("request")
    @classmethod
    def _only_options(cls, request: dict[str, Any]) -> dict[str, Any]:
        ours = {"model", "messages", "response_format", "stream", "n"}
        if wrong := sorted(ours & request.keys()):
            raise ValueError(f"found {wrong}; they are set by other keys, or by the program")
        if any(re.search("key|authorization|header|secret", name, re.IGNORECASE) for name in request):
            raise ValueError("found a name of a secret; keys come from the environment alone")
        return request
