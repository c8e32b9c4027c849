"""The container's arguments: our `check` and its options, or the user's command. Pure."""

from __future__ import annotations

from entrypoint.choice import vendor_of
from entrypoint.errors import UsageError
from entrypoint.light import TYPE_CHECKING, dataclass, field
from entrypoint.spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from entrypoint.spec import ImageSpec

_HELP: Final = ("--help", "-h")
_FLAGS: Final = {"--json": "as_json", "--deep": "deep", "--collective": "collective"}
USAGE: Final = """\
usage: docker run {options}axolotl-attn:ID [COMMAND [ARG…]]
       docker run {options}axolotl-attn:ID check [--json] [--deep] [--config FILE] [--html FILE]
       docker run {options}axolotl-attn:ID check --collective

Proves that attention is right, fast and the kernel asked for on the GPU at hand, then becomes COMMAND.
Without COMMAND, or with `check`, it prints the report and exits with the verdict's code; with --json the
report goes to stdout as JSON, and with --deep everything is checked. The Axolotl configuration in COMMAND,
or FILE, is judged first: what attention it will really run, and whether that is what it asks for. With
--collective the GPUs add and exchange integers, and nothing else is checked: those of this container, or under
torchrun all ranks of all nodes.

  ATTN_CHECK    enforce (default), warn: run COMMAND whatever the verdict, off: no check
  ATTN_BACKEND  a backend of this image ({backends}), or auto; default: the configuration's
  ATTN_SLOW     warn (default), fail: a slow GPU or kernel stops the start
  ATTN_REPORT   where the JSON report goes; default /tmp/attn/report.json
  ATTN_CACHE    where verdicts and what compilers make are kept; default /tmp/attn/cache; empty: none are
  ATTN_TIMEOUT  seconds that check and rehearsal may take; default 120
  ATTN_ALLOW    limitations you accept, by comma: forward-only, or ids of preflight rules
  ATTN_DEPTH    start (default): what decides whether this run can start; deep: everything
  ATTN_CONFIG   the Axolotl configuration, where COMMAND does not name it
  ATTN_REHEARSE on (default): a training command is rehearsed on a model of few layers, off

check also writes, each to its FILE:
  --html FILE        the report as a page, for a person
  --junit FILE       JUnit XML, for a CI system
  --prometheus FILE  metrics, for node_exporter's textfile collector (NAME.prom)
  --nfd FILE         labels, for node-feature-discovery (features.d/NAME)
  --npd FILE         the verdict in a line, for a custom plugin of node-problem-detector
  NODE_NAME names the node in them and in the report; default: the host name
  --exit-codes=nvsentinel  ends with 0 for passed, 1 for 92 to 94, 2 for 90, 91 and 95

exit codes: 90 CONFIG  91 MISMATCH  92 WRONG  93 SLOW  94 GPU_FAULT  95 INTERNAL; else COMMAND's own
"""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What was asked for by arguments. `command` is empty when only the check was asked for."""

    command: tuple[str, ...] = ()
    as_json: bool = False
    deep: bool = False
    collective: bool = False
    config: str | None = None  # the configuration that `check` names
    files: dict[str, str] = field(default_factory=dict)  # where `check` writes each form of the report
    nvsentinel: bool = False  # whether `check` ends with NVSentinel's exit codes


def usage(spec: ImageSpec) -> str:
    """What --help prints: with the image's backends, and with what docker run needs to hand out its maker's GPUs."""
    options = "" if spec.device == "cpu" else f"{vendor_of(spec).options} "
    return USAGE.format(options=options, backends=", ".join(choice.name for choice in spec.choices))


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether usage() is all that is wanted: behind a command, --help is the command's."""
    return bool(argv) and (argv[0] in _HELP or argv[0] == "check" and bool(set(argv[1:]) & set(_HELP)))


def parse(argv: Sequence[str]) -> Invocation:
    """Split the container's arguments into our `check` and the user's command.

    Raises UsageError at the first word that `check` does not take.
    """
    if argv and argv[0] != "check":
        return Invocation(command=tuple(argv))
    from entrypoint.writers import NAMES

    options = ("--config", "--exit-codes", *(f"--{name}" for name in NAMES))
    given: dict[str, Any] = {"files": {}}
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            given[_FLAGS[word]] = True
        elif name in options:
            _take(name, value if equals else next(words, ""), given)
        else:
            known = did_you_mean(name, [*_FLAGS, *options, "--help"])
            raise UsageError(f"check does not take {word!r}. {known}", "See check --help.", Invocation(**given))
    return Invocation(**given)


def _take(name: str, value: str, given: dict[str, Any]) -> None:
    """Put one option that has a value among the fields of an Invocation."""
    if name == "--exit-codes":
        given["nvsentinel"] = value == "nvsentinel"
        if not given["nvsentinel"]:
            what = f"check --exit-codes={value} is not known."
            raise UsageError(what, "Write --exit-codes=nvsentinel, or none.", Invocation(**given))
    elif not value:
        raise UsageError(f"check {name} names no file.", f"Write check {name} FILE.", Invocation(**given))
    elif name == "--config":
        given["config"] = value
    else:
        given["files"][name.removeprefix("--")] = value
