"""The loop: ask, record, ask again in smaller requests for what was left out."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from prealign.config.translation import TranslationConfig
from prealign.errors import UserError
from prealign.lexicon.llm.batches import Request, lacking, requests_for
from prealign.lexicon.llm.cache import Cache
from prealign.lexicon.llm.endpoint import Endpoint, NoReplyError, Reply, StoppedError
from prealign.lexicon.llm.prompt import Prompt
from prealign.lexicon.llm.reply import parse_reply, same_word

ROUNDS = 5
"""How often a word is asked for: in a full request, then in one of a quarter, a sixteenth, ... of its size."""

_LEAST_UNANSWERED = 8
"""A run stops after so many requests in a row without a reply (or twice `concurrency` if that is more; one, where the
endpoint has never answered anything)."""
_MOST_USELESS = 50
"""A run stops after so many replies in a row that hold no translation of what was asked for."""
_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Outcome:
    """What a run came to. ``failed``: (word, language) -> reason, for all that have no answer."""

    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    stopped: str = ""
    """Why the run ended before every word was asked for."""
    error: UserError | None = None
    """The mistake that stopped it, when it was one."""


def translate_words(
    words: dict[str, str],
    languages: list[str],
    prompt: Prompt,
    endpoint: Endpoint,
    cache: Cache,
    settings: TranslationConfig,
    stop: threading.Event,
    say: Callable[[str], None],
) -> Outcome:
    """Ask for what the cache does not know.

    ``words``: word -> as the text writes it, in the order in which they are asked for. Every answer is in the cache
    before the next one is looked at. When ``stop`` is set no more requests are sent, and the replies that are under way
    are waited for and recorded. A run also stops at a mistake of the user's, and where the endpoint seems to be down or
    the model unable.
    """
    outcome = Outcome()
    missing = [(word, lacking(word, cache.known, languages)) for word in words]
    total = sum(len(lacks) for _, lacks in missing)
    queue = deque(requests_for(missing, settings.words_per_request))
    running: dict[Future[Reply], Request] = {}
    most_unanswered = max(_LEAST_UNANSWERED, 2 * settings.concurrency)
    done = unanswered = useless = 0
    last_line = ""
    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def halt(why: str) -> None:
        outcome.stopped = outcome.stopped or why
        stop.set()

    with ThreadPoolExecutor(settings.concurrency, thread_name_prefix="translate") as pool:
        while queue or running:
            while queue and len(running) < settings.concurrency and not stop.is_set():
                request = queue.popleft()
                messages = prompt.messages([words[word] for word in request.words], request.languages)
                running[pool.submit(endpoint.ask, messages, request.languages)] = request
            if not running:
                break
            for future in wait(running, _SECONDS_BETWEEN_LINES, FIRST_COMPLETED).done:
                request = running.pop(future)
                try:
                    answered, reason = _record(future.result(), request, words, cache)
                    done += answered
                    unanswered, useless = 0, 0 if answered else useless + 1
                except NoReplyError as failure:
                    reason = str(failure)
                    unanswered += 1
                except UserError as error:
                    outcome.error = outcome.error or error
                    halt(str(error))
                    continue
                except StoppedError:
                    continue
                _ask_again(request, reason, queue, outcome, cache, settings)
                if unanswered >= (most_unanswered if endpoint.answered else 1):
                    halt(f"{unanswered} requests in a row had no reply; the last one: {reason}")
                if useless >= _MOST_USELESS:
                    halt(f"{useless} replies in a row were of no use; the last one: {reason}")
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
                trouble = f"; last trouble: {endpoint.trouble}" if endpoint.trouble else ""
                sent = f"{endpoint.requests:,} requests, {endpoint.retries:,} of them repeated"
                line = f"{done:,} of {total:,} translations; {sent}{trouble}"
                if line != last_line:
                    say(line)
                last_line = line

    if stop.is_set():
        outcome.stopped = outcome.stopped or "interrupted"
    for word in words:
        for language in languages:
            if language in cache.known.get(word, {}):
                outcome.failed.pop((word, language), None)
            else:
                outcome.failed.setdefault((word, language), f"not asked for: {outcome.stopped}")
    return outcome


def _record(reply: Reply, request: Request, words: dict[str, str], cache: Cache) -> tuple[int, str]:
    """Put what a reply has of the words asked for into the cache; returns how many translations, and why not all."""
    found = parse_reply(reply.text, request.languages)
    answers = {}
    for word in request.words:
        answer = found.get(same_word(words[word])) or found.get(same_word(word))
        if answer:
            answers[word] = answer
    cache.add(answers, reply.input_tokens, reply.output_tokens)
    reason = reply.complaint or ("the reply left it out" if found else "the reply holds no translations")
    return sum(len(answer) for answer in answers.values()), reason


def _ask_again(
    request: Request, reason: str, queue: deque[Request], outcome: Outcome, cache: Cache, settings: TranslationConfig
) -> None:
    """Queue what a request left open in smaller ones, next in turn; after the last round note it as failed."""
    missing = [(word, lacking(word, cache.known, request.languages)) for word in request.words]
    following = request.round + 1
    if following < ROUNDS:
        size = max(1, settings.words_per_request // 4**following)
        queue.extendleft(reversed(list(requests_for(missing, size, following))))
        return
    for word, languages in missing:
        for language in languages:
            outcome.failed[word, language] = reason
