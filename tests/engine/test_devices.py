"""Device files and groups reach a container as `docker run --device --group-add` would hand them to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attn_matrix.host import engine

# None of them is in a container that was not given it.
CANDIDATES = ("/dev/fuse", "/dev/kmsg", "/dev/loop-control")


def said(request: engine.Request) -> tuple[int, list[str]]:
    """The exit code of a container, and the lines that it wrote to stdout."""
    with engine.connect() as client, engine.created(client, request) as container:
        container.start()
        code = int(container.wait()["StatusCode"])
        return code, container.logs(stderr=False).decode().splitlines()


def test_devices_and_groups_are_handed_out(sdpa_cpu: str) -> None:
    """As an AMD GPU is: the file is there, and the user is in the groups that may open it."""
    device = next((path for path in CANDIDATES if Path(path).exists()), None)
    if device is None:
        pytest.skip(f"needs one of {', '.join(CANDIDATES)} on this machine")
    command = ["sh", "-c", f"id -G; ls {device}"]
    environment = {"ATTN_CHECK": "off"}

    with_both = engine.Request(sdpa_cpu, command, environment, devices=[device], groups=["109", "44"])
    code, (groups, *listed) = said(with_both)

    assert (code, set(groups.split()), listed) == (0, {"0", "44", "109"}, [device])
    assert said(engine.Request(sdpa_cpu, command, environment)) == (2, ["0"])
