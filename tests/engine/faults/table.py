"""The table of faults in .github/MEASURED.md: `python -m tests.engine.faults.table` writes it anew."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.conftest import ROOT, build
from tests.engine.faults.fault import RUNS, Fault, Seen
from tests.engine.faults.listed import FAULTS, LISTED
from tests.engine.faults.runs import Runs

PAGE: Final = ROOT / ".github/MEASURED.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->\n"
LONGEST: Final = 150  # characters of a reason that are shown
# What a line begins with that is no part of the reason; and what differs from start to start.
LABEL: Final = re.compile(r"^(axolotl-attn( sdpa-cpu)?:|  \w+) +")
VARIES: Final = (
    (re.compile(r" \(from the verdict cache\)"), ""),
    (re.compile(r"/data/cache/(compiled/)?[0-9a-f]{16,}(\.json)?|/cache/compiled/[0-9a-f]{16,}"), "…"),
)


def reason(text: str, says: str) -> str:
    """The line that a person reads, as the table has it. Raises LookupError where there is none."""
    for line in text.splitlines():
        if found := re.search(says, line):
            shown = line
            if "any" in found.re.groupindex:
                shown = f"{line[: found.start('any')]}…{line[found.end('any') :]}"
            for pattern, instead in VARIES:
                shown = pattern.sub(instead, shown)
            shown = LABEL.sub("", shown)
            return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1].rstrip()}…"
    raise LookupError(f"nothing says {says!r}: {text}")


def row(fault: Fault, enforced: Seen, warned: Seen) -> str:
    text = reason(enforced.text, fault.says).replace("|", "\\|").replace("<", "&lt;")
    return f"| {fault.name} | {outcome(enforced)} | {text} | {outcome(warned)} |"


def outcome(seen: Seen) -> str:
    """The code, or that the command ran to its own."""
    ran = seen.ran == len(seen.codes) and set(seen.codes) == {RUNS}
    return "runs" if ran else ", ".join(map(str, sorted(set(seen.codes))))


def render(runs: Runs) -> str:
    """Markdown, the faults in their groups."""
    lines = [
        f"{len(FAULTS)} faults:",
        "",
        "| fault | code | what the person reads | under `warn` |",
        "|---|---|---|---|",
    ]
    for group, faults in LISTED.items():
        lines.append(f"| **{group}** | | | |")
        lines += [row(fault, *runs.of(fault.name)) for fault in faults]
    return "\n".join(lines) + "\n"


def shown() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", help="another image than a freshly built sdpa-cpu")
    image = parser.parse_args().image
    if not image:
        build("sdpa-cpu")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Runs(FAULTS, image or "axolotl-attn:sdpa-cpu", Path(folder)) as runs,
    ):
        table = render(runs)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no place for it: {BEGIN.strip()} and {END.strip()}")
    PAGE.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
