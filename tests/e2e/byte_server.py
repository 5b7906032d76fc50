"""A server that answers with whatever bytes a test wants: no protocol of its own, real sockets."""

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"  # ends with the connection
USAGE = {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 1}}


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    head: str
    body: bytes

    @property
    def generates(self):
        """Whether tokens are asked for, no page."""
        return self.head.startswith("POST")

    def field(self, name):
        """What a header holds, "" where there is none."""
        lines = (line.partition(": ") for line in self.head.splitlines())
        return next((value for key, _, value in lines if key.lower() == name.lower()), "")


Answer = Callable[[Asked], Iterable[bytes]]


class ByteServer(socketserver.ThreadingTCPServer):
    """`answer` yields the bytes to send for each request; then the connection closes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None):
        self.answer, self.tls, self.asked = answer, tls, []
        super().__init__(("127.0.0.1", 0), Conversation)
        self.port = self.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def get_request(self):
        line, address = super().get_request()
        if self.tls is not None:  # shakes hands when it is first read, in its own thread
            line = self.tls.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        return line, address

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self.shutdown()
        self.server_close()


class Conversation(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self):
        with suppress(OSError):  # whoever asked may leave when it likes
            if (asked := self.receive()) is not None:
                self.server.asked.append(asked)
                for part in self.server.answer(asked):
                    self.request.sendall(part)

    def receive(self):
        if self.rfile.peek(1)[:1] == b"\x16":  # a handshake of TLS
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return None
        lines = []
        while (line := self.rfile.readline()).strip():
            lines.append(line.decode("latin-1"))
        if not lines:
            return None
        bare = Asked(lines[0].split()[1], "".join(lines), b"")
        return replace(bare, body=self.rfile.read(int(bare.field("content-length") or 0)))


def page(document, status="200 OK"):
    """A whole JSON answer."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def event(document):
    """One event of a stream."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def completion(*texts):
    """A whole stream of one token per text."""
    chunks = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in texts]
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    return STREAM + b"".join(map(event, [*chunks, last, USAGE])) + b"data: [DONE]\n\n"


MODELS = page({"data": [{"id": "tiny"}]})
