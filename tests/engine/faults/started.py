"""Start the container of a fault and see what comes of it."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from entrypoint.report.text import to_text
from tests.engine.faults.box import Box
from tests.engine.faults.fault import Fault, Seen
from tests.patience import PATIENCE


def see(fault: Fault, check: str, folder: Path, image: str) -> Seen:
    """What comes of a fault under this value of ATTN_CHECK, in a new `folder`."""
    folder.mkdir()
    box = box_of(fault, folder, image)
    if fault.before:
        prepare(box, fault)
    box.options += fault.options
    environment, command = {**fault.env, "ATTN_CHECK": check}, list(fault.command)
    if fault.shell:
        box.options.append("--entrypoint=sh")
        command = ["-c", fault.shell, "sh", "attn-run", *command]
    running = {}
    try:
        for box.name in [f"{box.name}-{index}" for index in range(fault.together)]:
            running[box.name] = box.start(*command, **environment)
        if fault.during:
            fault.during(box)
        codes = {name: process.wait(PATIENCE) for name, process in running.items()}
        box.name = odd_one_of(codes)
    finally:
        subprocess.run(["docker", "rm", "--force", *running], capture_output=True, check=False)
        for process in running.values():
            process.wait(PATIENCE)
    return Seen(codes=tuple(codes.values()), ran=len([*box.data.glob("ran-*")]), text=box.text or written(box))


def odd_one_of(codes: Mapping[str, int]) -> str:
    """The container that ended as fewest others did: its words tell why. The last one, where all ended alike."""
    common = Counter(codes.values())
    return min(reversed([*codes]), key=lambda name: common[codes[name]])


def box_of(fault: Fault, folder: Path, image: str) -> Box:
    """The container with its files, before anything happens to it."""
    box = Box(folder, image)
    box.own, box.rehearses = not fault.behaviour, fault.behaviour.startswith("rehearsal")
    box.behave(fault.behaviour)
    if fault.gpus:
        box.give_gpus(fault.gpus)
    box.spec |= fault.spec
    for name, content in fault.files.items():
        file = box.data / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    return box


def prepare(box: Box, fault: Fault) -> None:
    """Run the script that goes before, in a container without the fault's options."""
    kept, box.options = box.options, [*box.options, "--entrypoint=sh"]
    process = box.start("-ec", fault.before, **fault.env)
    assert process.wait(PATIENCE) == 0, box.text
    box.options = kept


def written(box: Box) -> str:
    """The report as a person reads it, where stderr has nothing."""
    return to_text(box.report()) if (box.data / "report.json").exists() else ""
