"""An OpenAI-compatible endpoint on loopback that behaves as badly as a test asks it to."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-of-the-test-0123456789"

FAULTS = [
    "429",
    "429 date",
    "500",
    "503",
    "timeout",
    "dropped",
    "half a body",
    "no completion",
    "truncated",
    "missing words",
    "extra words",
    "duplicated words",
    "prose",
    "not JSON",
    "language left out",
]


def translations(word: str, language: str) -> list[str]:
    """What the endpoint knows: two translations for each word, one for the first word of the alphabet's second half."""
    if language == "zh":  # in Chinese characters, one for each letter
        word, language = "".join(chr(0x4E00 + ord(letter)) for letter in word), "字"
    return [f"{word}{language}", f"{word}{language}zwei"] if word.lower() < "n" else [f"{word}{language}"]


@dataclass
class Served:
    """One request as the endpoint saw it. ``answered``: the pairs that a whole reply of status 200 held."""

    words: list[str]
    languages: list[str]
    behaviour: str
    body: dict[str, Any]
    authorization: str
    time: float
    answered: set[tuple[str, str]] = field(default_factory=set)


Script = Callable[[int, list[str]], str]
"""(number of the request, its words) -> "ok" or one of `FAULTS`."""


class Server:
    """A context manager; ``requests`` is the log, ``most_at_once`` the largest number of requests under way."""

    def __init__(
        self,
        script: Script = lambda number, words: "ok",
        delay: float = 0.0,
        hang: float = 3.0,
        retry_after: str = "0.5",
    ) -> None:
        self.script = script
        self.delay = delay
        self.hang = hang
        self.retry_after = retry_after
        self.requests: list[Served] = []
        self.replies: dict[str, Callable[[list[str], list[str]], str]] = {}
        self.under_way = self.most_at_once = 0
        self.lock = threading.Lock()
        self._http = _QuietServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answered(self) -> list[tuple[str, str]]:
        """Every (word, language) that a whole reply held, as often as it did."""
        return [pair for request in list(self.requests) for pair in request.answered]


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the test."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            system, user = (message["content"] for message in body["messages"])
            words = json.loads(user)
            languages = re.findall(r'^"(\w+)": ', system, re.MULTILINE)
            with server.lock:
                behaviour = server.script(len(server.requests), words)
                served = Served(
                    words, languages, behaviour, body, self.headers.get("Authorization", ""), time.monotonic()
                )
                server.requests.append(served)
                server.under_way += 1
                server.most_at_once = max(server.most_at_once, server.under_way)
            try:
                time.sleep(server.delay)
                self.behave(served)
            finally:
                with server.lock:
                    server.under_way -= 1

        def behave(self, served: Served) -> None:
            behaviour = served.behaviour
            if behaviour == "429":
                self.send(429, {"error": {"message": f"slow down, {KEY}"}}, {"Retry-After": server.retry_after})
            elif behaviour == "429 date":
                self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": self.date_time_string()})
            elif behaviour.isdigit():
                self.send(int(behaviour), {"error": {"message": f"no luck today\nwith {KEY}"}})
            elif behaviour == "no json_schema":
                self.send(400, {"error": {"message": "response_format 'json_schema' is not supported"}})
            elif behaviour == "quota":
                self.send(429, {"error": {"message": "no money", "code": "insufficient_quota"}})
            elif behaviour == "timeout":
                time.sleep(server.hang)
                self.close_connection = True
            elif behaviour == "trickle":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(int(server.hang / 0.1)):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.1)
                self.close_connection = True
            elif behaviour == "dropped":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif behaviour == "no completion":
                self.send(200, {"error": {"message": "upstream broke"}})
            else:
                self.complete(served)

        def complete(self, served: Served) -> None:
            behaviour, words, languages = served.behaviour, served.words, served.languages
            entries = [{"word": word} | {code: translations(word, code) for code in languages} for word in words]
            if behaviour == "missing words":
                entries = entries[: len(entries) // 2]
            if behaviour == "extra words":
                entries.append({"word": "unasked"} | {code: ["ungefragt"] for code in languages})
            if behaviour == "duplicated words":
                entries += [entry | {"word": entry["word"].upper()} for entry in entries]
            if behaviour == "language left out":
                entries = [{key: value for key, value in entry.items() if key != languages[-1]} for entry in entries]
            text = json.dumps({"words": entries}, ensure_ascii=False)
            finish = "stop"
            if behaviour == "truncated":
                text, finish = text[: len(text) * 2 // 3], "length"
                entries = []
            if behaviour == "prose":
                text = f"<think>Is it {{this}}?</think>Here you are:\n```json\n{text}\n```\nAnything else?"
            if behaviour == "not JSON":
                text, entries = "Sorry, I can only answer in verse.", []
            if behaviour in server.replies:
                text, entries = server.replies[behaviour](words, languages), []
            completion = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": served.body["model"],
                "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10 * len(words), "total_tokens": 0},
            }
            if behaviour == "half a body":
                self.send(200, completion, cut=True)
                return
            self.send(200, completion)
            served.answered = {
                (entry["word"].lower(), code) for entry in entries for code in languages if code in entry
            } & {(word.lower(), code) for word in words for code in languages}

        def send(self, status: int, body: Any, headers: dict[str, str] | None = None, cut: bool = False) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.wfile.flush()
            if cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

    return Handler
