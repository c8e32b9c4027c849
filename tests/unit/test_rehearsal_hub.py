"""No connection leaves the machine, and each attempt is told. An audit hook stays, so each case is a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoint.rehearsal.hub import local

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, socket, sys
from entrypoint.rehearsal import hub
told = []
hub.refuse(lambda host, by: told.append([host, by]))
try:
    {call}
    outcome = "went through"
except Exception as error:
    outcome = type(error).__name__
print(json.dumps([outcome, told]))
"""


def tried(call: str) -> tuple[str, list[list[str]]]:
    """What became of a call, and what was told."""
    command = [sys.executable, "-P", "-c", SCRIPT.replace("{call}", call)]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    outcome, told = json.loads(done.stdout)
    return outcome, told


@pytest.mark.parametrize(
    ("call", "host"),
    [
        ('socket.create_connection(("huggingface.co", 443), timeout=1)', "huggingface.co"),
        ('socket.socket().connect(("203.0.113.7", 443))', "203.0.113.7"),
        ('socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.7", 53))', "203.0.113.7"),
        ('__import__("urllib.request").request.urlopen("http://example.org/")', "example.org"),
    ],
)
def test_another_machine_is_refused_and_named(call: str, host: str) -> None:
    outcome, told = tried(call)
    assert outcome in {"Refused", "URLError"}
    assert [row[0] for row in told] == [host]
    assert told[0][1].startswith("<string>:")


@pytest.mark.parametrize(
    "call",
    [
        'server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname()[:2])',
        "socket.socketpair()",
        'socket.getaddrinfo("localhost", 80)',
    ],
)
def test_this_machine_is_not(call: str) -> None:
    assert tried(call) == ("went through", [])


@pytest.mark.parametrize(("host", "here"), [("127.0.0.2", True), ("::1", True), ("10.0.0.1", False), ("hub", False)])
def test_what_is_this_machine(host: str, here: bool) -> None:
    assert local(host) is here
