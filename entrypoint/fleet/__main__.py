"""`python -I entrypoint/fleet`: the page of the report on stdin, on stdout. The child of `check --html`."""

import json
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from entrypoint.fleet.merge import merge
from entrypoint.fleet.page import render
from entrypoint.fleet.reports import parse

sys.stdout.buffer.write(render(merge([parse(json.load(sys.stdin.buffer), "the report", "this node")])).encode())
