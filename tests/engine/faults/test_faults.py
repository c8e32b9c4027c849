"""Each fault in a real container: its code, the reason that a person reads, and a command that `warn` never loses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.faults import table
from tests.engine.faults.fault import RUNS, TRAPPED
from tests.engine.faults.listed import FAULTS, LISTED
from tests.engine.faults.runs import Runs

COMMANDS = (RUNS, TRAPPED)
# What ends a start whatever ATTN_CHECK says: a request that nobody can understand, a command that cannot be run, a
# signal. No verdict (91 to 95) is among them.
WHATEVER = (90, 126, 127, 130, 143)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, sdpa_cpu: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Those of the tests that were selected, all of them for the table."""
    selected = {item.name for item in request.session.items if item.path == request.path}
    whole = test_the_page_shows_what_was_seen.__name__ in selected
    wanted = [name for name in FAULTS if whole or any(f"[{name}]" in each for each in selected)]
    with Runs(wanted, sdpa_cpu, tmp_path_factory.mktemp("faults")) as begun:
        yield begun


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_its_code_and_its_reason(runs: Runs, name: str) -> None:
    """Under `enforce` and under `warn`; the command begins where its code is the container's, and only there."""
    fault = FAULTS[name]
    for seen, code in zip(runs.of(name), (fault.code, fault.warn), strict=True):
        assert set(seen.codes) == {code}, seen.text
        assert table.reason(seen.text, fault.says)
        assert seen.ran == (fault.together if code in COMMANDS else 0), seen.text


def test_the_page_shows_what_was_seen(runs: Runs) -> None:
    """`python -m tests.engine.faults.table` writes it anew."""
    assert table.shown() == table.render(runs)


def test_no_verdict_costs_a_command_under_warn() -> None:
    """Of all that is listed: 40 faults at least, each under a name of its own."""
    assert sum(map(len, LISTED.values())) == len(FAULTS) >= 40
    lost = [name for name, fault in FAULTS.items() if fault.warn not in (*COMMANDS, *WHATEVER)]
    assert [name for name in lost if FAULTS[name].command[0] != "check"] == []
