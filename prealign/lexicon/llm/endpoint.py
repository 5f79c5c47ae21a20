"""An OpenAI-compatible endpoint: one question at a time per thread, paced, tried again when that can help."""

import email.utils
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prealign.config.translation import TranslationConfig
from prealign.errors import UserError
from prealign.lexicon.llm.prompt import reply_schema

_RETRIED = {408, 409, 425, 429}  # and every 5xx
_LONGEST_BACKOFF_SECONDS = 60.0
_MESSAGE_LENGTH = 200


@dataclass(frozen=True)
class Reply:
    """What the model wrote. ``complaint`` says what is wrong with it as a whole, if anything."""

    text: str
    input_tokens: int
    output_tokens: int
    complaint: str = ""


class NoReplyError(Exception):
    """A request got no reply after all attempts; the message is the last reason."""


class StoppedError(Exception):
    """The run is to stop; the request was not sent again."""


class _TransientError(Exception):
    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _FormatRefusedError(Exception):
    """The endpoint does not know this way of asking for JSON."""


class Pace:
    """Spaces the starts of requests evenly over all threads; a pause holds all of them back."""

    def __init__(self, per_minute: float, stop: threading.Event) -> None:
        self._interval = 60.0 / per_minute
        self._stop = stop
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Block until a request may start; raises `StoppedError` when the run is to stop."""
        while not self._stop.is_set():
            with self._lock:
                delay = self._next - time.monotonic()
                if delay <= 0:
                    self._next = time.monotonic() + self._interval
                    return
            self._stop.wait(delay)
        raise StoppedError

    def pause(self, seconds: float) -> None:
        """No request starts for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Endpoint:
    """Asks chat completions; `ask` may be called from any number of threads. ``stop`` ends waits and retries."""

    def __init__(self, settings: TranslationConfig, key: str, stop: threading.Event) -> None:
        try:
            import httpx2  # what the client speaks HTTP with
            import openai
        except ImportError:
            raise UserError(
                "translation: the client 'openai' is not installed; pip install 'openai>=3.54,<4'"
            ) from None
        if not key.isascii() or not key.isprintable() or not key:
            raise UserError(
                f"environment variable {settings.key_variable}: found an empty or unprintable value; expected the "
                "endpoint's key (any word will do for one without keys)"
            )
        self._openai = openai
        self._broken_connection = (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError)
        self._client = openai.OpenAI(api_key=key, base_url=settings.base_url, timeout=settings.timeout, max_retries=0)
        self._settings = settings
        self._key = key
        self._stop = stop
        self._pace = Pace(settings.requests_per_minute, stop)
        self._lock = threading.Lock()
        formats = ["json_schema", "json_object", "text"]
        self._formats = formats if settings.reply_format == "auto" else [settings.reply_format]
        self.requests = 0
        """Requests sent so far, repeated ones included."""
        self.retries = 0
        self.answered = False
        """Whether the endpoint has answered anything at all."""
        self.trouble = ""
        """Why a request was sent again, the last time that one was."""

    def ask(self, messages: list[dict[str, str]], languages: Sequence[str]) -> Reply:
        """The reply to a conversation.

        Raises `NoReplyError` after `translation.attempts` failures that may pass (408, 409, 425, 429, 5xx, time-outs,
        broken connections, bodies that are no completion), `UserError` for what will not pass (400, 401, 404, ...),
        `StoppedError`.
        """
        failures = 0
        while True:
            reply_format = self._formats[0]
            self._pace.wait()
            with self._lock:
                self.requests += 1
            try:
                return self._ask_once(messages, languages, reply_format)
            except _FormatRefusedError:
                with self._lock:
                    if self._formats[0] == reply_format:
                        self._formats = self._formats[1:]
            except _TransientError as failure:
                failures += 1
                if failure.retry_after is not None:
                    self._pace.pause(failure.retry_after)
                if failures >= self._settings.attempts:
                    raise NoReplyError(f"{failure} ({failures} attempts)") from None
                with self._lock:
                    self.retries += 1
                    asked_to_wait = "" if failure.retry_after is None else f"; to wait {failure.retry_after:.0f} s"
                    self.trouble = f"{failure}{asked_to_wait}"
                longest = min(_LONGEST_BACKOFF_SECONDS, self._settings.backoff * 2.0 ** (failures - 1))
                if self._stop.wait(random.uniform(0.5, 1.0) * longest):
                    raise StoppedError from None

    def _ask_once(self, messages: list[Any], languages: Sequence[str], reply_format: str) -> Reply:
        deadline = time.monotonic() + self._settings.timeout
        body: dict[str, Any] = {}
        if reply_format == "json_schema":
            schema = {"name": "translations", "strict": True, "schema": reply_schema(languages)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif reply_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        completions = self._client.chat.completions.with_streaming_response
        try:
            with completions.create(
                model=self._settings.model, messages=messages, extra_body=body | self._settings.request
            ) as response:
                self.answered = True
                received = bytearray()
                for part in response.iter_bytes():
                    received += part
                    if time.monotonic() > deadline:  # the client's own limit is for each part
                        raise _TransientError(f"no whole reply within {self._settings.timeout:g} s")
        except self._openai.APITimeoutError:
            raise _TransientError(f"no reply within {self._settings.timeout:g} s") from None
        except self._openai.APIStatusError as error:
            self.answered = True
            raise self._refusal(error, reply_format) from None
        except self._broken_connection as error:
            raise _TransientError(f"connection failed: {self._line(str(error.__cause__ or error))}") from None
        return self._completion(bytes(received))

    def _refusal(self, error: Any, reply_format: str) -> Exception:
        """What a status of 400 and above means."""
        status, said = error.status_code, self._line(error.message)
        if error.code == "insufficient_quota":
            return UserError(f"{self._client.base_url}: answered {status} ({said}); add credit, then run this again")
        if status in _RETRIED or status >= 500:
            return _TransientError(f"HTTP {status}: {said}", retry_after_seconds(error.response.headers))
        about_format = any(name in error.message for name in ("response_format", "json_schema", "json_object"))
        if status in (400, 422) and about_format and self._settings.reply_format == "auto" and reply_format != "text":
            return _FormatRefusedError()
        remedy = {
            401: f"set the environment variable {self._settings.key_variable} to a valid key",
            403: f"use a key (environment variable {self._settings.key_variable}) that may use this model",
            404: f"expected translation.base_url up to and with /v1 and a model that it serves, found model "
            f"'{self._settings.model}'",
        }.get(status, "mend the section translation of the recipe (model, request, reply_format, words_per_request)")
        return UserError(f"{self._client.base_url}: the endpoint answered {status} ({said}); {remedy}")

    def _completion(self, body: bytes) -> Reply:
        try:
            value = json.loads(body)
            choice = value["choices"][0]
            text = choice["message"].get("content") or ""
            refusal = choice["message"].get("refusal")
            finish = choice.get("finish_reason")
            usage = value.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError):
            found = self._line(body[: 4 * _MESSAGE_LENGTH].decode(errors="replace"))[:80]
            raise _TransientError(f"found no chat completion in the reply: {found!r}") from None
        complaint = ""
        if finish == "length":
            complaint = "the reply was cut at the limit of output tokens"
        elif refusal or finish == "content_filter":
            complaint = f"refused by the model: {self._line(str(refusal or 'content filter'))}"
        return Reply(text, *tokens, complaint)

    def _line(self, text: str) -> str:
        """What an endpoint said, in one short line without the key (some repeat it)."""
        return " ".join(text.replace(self._key, "***").split())[:_MESSAGE_LENGTH]


def retry_after_seconds(headers: Any) -> float | None:
    """Seconds that the endpoint asks to wait: ``Retry-After`` in seconds or as a date, or ``retry-after-ms``."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None
