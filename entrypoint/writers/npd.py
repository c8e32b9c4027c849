"""The verdict as one line, for a custom plugin of node-problem-detector that reads this file and checks nothing."""

from __future__ import annotations

from entrypoint.report.text import Report


def render(report: Report) -> str:
    """`VERDICT CODE REASON`, such as "FAIL 94 fa4 crashed with SIGSEGV.": one line, whatever is in it."""
    words = f"{report['verdict']} {report['code']['number']} {report['headline']['what']}".split()
    return " ".join(words) + "\n"
