"""The container's arguments: whose they are, what they mean, and what a misspelt one leaves."""

from __future__ import annotations

import pytest

from entrypoint.arguments import Invocation, asks_for_help, parse
from entrypoint.errors import UsageError


@pytest.mark.parametrize("argv", [["echo", "--json"], ["--json", "check"], ["./check", "--deep"]])
def test_all_words_of_a_command_are_its_own(argv: list[str]) -> None:
    assert parse(argv) == Invocation(command=tuple(argv))


@pytest.mark.parametrize("argv", [[], ["check"]])
def test_without_a_command_it_is_a_check(argv: list[str]) -> None:
    assert parse(argv) == Invocation()


def test_every_option_of_check() -> None:
    """With its value behind it, or behind an equals sign that a value may hold too."""
    words = "--json --deep --collective --config c.yml --html=a=b --junit j.xml --exit-codes=nvsentinel"
    assert parse(["check", *words.split()]) == Invocation(
        as_json=True,
        deep=True,
        collective=True,
        config="c.yml",
        files={"html": "a=b", "junit": "j.xml"},
        nvsentinel=True,
    )


@pytest.mark.parametrize("faulty", [["--jsno"], ["more"], ["--json=yes"], ["--html"], ["--npd="], ["--exit-codes=x"]])
def test_an_error_keeps_what_was_understood(faulty: list[str]) -> None:
    """So that a refusal is told in the form that was asked for; what stands behind the faulty word counts no more."""
    with pytest.raises(UsageError) as caught:
        parse(["check", "--json", "--junit=j.xml", *faulty])
    assert caught.value.before == Invocation(as_json=True, files={"junit": "j.xml"})


@pytest.mark.parametrize(
    ("argv", "asked"),
    [(["--help"], True), (["check", "--config", "-h"], True), (["echo", "--help"], False), ([], False)],
)
def test_help_is_ours_unless_a_command_stands_before_it(argv: list[str], asked: bool) -> None:
    assert asks_for_help(argv) is asked
