"""`nox -s inspect [-- PATTERN... --json]`: what can be proved about built images without a GPU.

The programs of docker/inside run in each image, mounted read-only and without a network, and report facts;
`attn_matrix.commands.inspection_rules` judges them by images.yaml and the lock. Exit code 1 when a row fails.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from inside import facts

from attn_matrix.commands import inspection_rules as rules
from attn_matrix.commands import terminal
from attn_matrix.commands.inspection_rules import Conclusion
from attn_matrix.commands.terminal import Part, Table
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import TORCH, Image, Matrix, lock_path
from attn_matrix.matrix.select import pick
from attn_matrix.rendered import requirements
from attn_matrix.rendered.bake import OCI, OWN

SCHEMA: Final = 1
PYTHON: Final = "/opt/venv/bin/python"
# Where the folders of prebuilt kernels are.
KERNELS: Final = "/opt/attn"
# The entrypoint's name on PATH.
NAME: Final = "attn-run"
# What is used of a package beside its top: by torch.compile, and by our own check.
ALSO: Final = {TORCH: "torch.utils.cpp_extension", "xformers": "xformers.ops"}
AS_ROOT: Final = ("--user=0", "--cap-drop=ALL", "--cap-add=DAC_READ_SEARCH")
WRITABLE_TMP: Final = ("--tmpfs=/tmp:exec",)


@dataclass(frozen=True)
class Inspected:
    """An image of the engine and what was found out about it; `digest` is the engine's own id of it."""

    id: str
    tag: str
    digest: str
    rows: tuple[Conclusion, ...]

    @property
    def failures(self) -> int:
        return sum(row.verdict == "fail" for row in self.rows)


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("inspect")
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help="an image id or a glob; default: all images")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout in place of the table")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    matrix = read(arguments.root / FILE)
    images = pick(matrix, arguments.patterns)
    engine.require()
    here = present(matrix, images, arguments.patterns)
    done = []
    for image in here:
        done.append(inspect(arguments.root, matrix, image))
        if not arguments.json:
            terminal.show(*tables(done[-1]))
    if arguments.json:
        print(document(done))
    return 1 if any(each.failures for each in done) else 0


def present(matrix: Matrix, images: Sequence[Image], patterns: Sequence[str]) -> list[Image]:
    """Those of `images` that the engine has; the others are named on stderr.

    Raises CommandFailed when one that was asked for by its id is not there, or none is.
    """
    here = [image for image in images if engine.identity(matrix.tag(image))]
    absent = [image.id for image in images if image not in here]
    wanted = [name for name in absent if name in patterns] or ([] if here else absent)
    if wanted:
        raise CommandFailed(f"the engine has no image of {', '.join(wanted)}", f"nox -s build -- {' '.join(wanted)}")
    if absent:
        engine.say(f"not in this engine, so not looked at: {', '.join(absent)}")
    return here


def inspect(root: Path, matrix: Matrix, image: Image) -> Inspected:
    """Everything about one image that the engine has. What cannot be looked at is a row that fails.

    It is held to what its own labels say: with the wheels prebuilt that images.yaml names, or with none of them.
    """
    tag = matrix.tag(image)
    inside, rows = Inside(root, as_built(matrix, image), image), list[Conclusion]()
    for name, check in CHECKS.items():
        engine.say(f"{image.id}: {name}")
        try:
            rows += check(inside)
        except CommandFailed as error:
            last = error.lines[-1].splitlines()[-1:] or [error.lines[0]]
            rows.append(rules.failed(name, "the check itself", last[0]))
    return Inspected(image.id, tag, engine.identity(tag) or "", tuple(rows))


def as_built(matrix: Matrix, image: Image) -> Matrix:
    """The matrix that the engine's image was built from; one that does not say is held to images.yaml as it is."""
    if not matrix.prebuilt_wheels(image):
        return matrix
    described = json.loads(engine.capture(["docker", "image", "inspect", matrix.tag(image)]))[0]
    prebuilt = (described["Config"]["Labels"] or {}).get(f"{OWN}.prebuilt")
    return matrix.from_source() if prebuilt == "" else matrix


# ---- the checks ----


@dataclass(frozen=True)
class Inside:
    """An image to run programs of docker/inside in."""

    root: Path
    matrix: Matrix
    image: Image

    @property
    def tag(self) -> str:
        return self.matrix.tag(self.image)

    @property
    def distributions(self) -> list[str]:
        """Torch, and the packages that images.yaml names for the image's backends."""
        return [TORCH, *self.matrix.kernel_packages(self.image)]

    def run(self, module: str, *arguments: str, options: Sequence[str] = WRITABLE_TMP) -> str:
        """What `inside.<module>` prints there. Raises CommandFailed."""
        return engine.capture(["docker", *command(self.root, self.tag, module, arguments, options)])

    def about(self) -> dict[str, Any]:
        """The engine's description of the image."""
        described: dict[str, Any] = json.loads(engine.capture(["docker", "image", "inspect", self.tag]))[0]
        return described


def command(root: Path, tag: str, module: str, arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments of `docker` that run a module of docker/inside in an image that may hold anything."""
    return [
        *("run", "--rm", "--network=none", "--read-only", "--security-opt=no-new-privileges"),
        f"--volume={root / 'docker/inside'}:/run/inspect/inside:ro",
        *("--env=PYTHONPATH=/run/inspect:/opt/attn", "--env=PYTHONDONTWRITEBYTECODE=1", *options),
        *(f"--entrypoint={PYTHON}", tag, "-P", "-m", f"inside.{module}", *arguments),
    ]


def imports(image: Inside) -> Iterator[Conclusion]:
    also = [f"{package}:{module}" for package, module in ALSO.items() if package in image.distributions]
    loads = facts.loads(image.run("loading", *image.distributions, "--also", *also))
    yield from rules.imports(loads)
    claim = rules.claims(image.matrix, image.image)[TORCH]
    if claim.capabilities:
        yield rules.coverage("GPU code", "torch's own list", loads.architectures, claim.capabilities)


def gpu_code(image: Inside) -> Iterable[Conclusion]:
    claimed = rules.claims(image.matrix, image.image)
    if not claimed[TORCH].capabilities:
        return [rules.not_applicable("GPU code", image.image.platform, "a CPU runs none")]
    return rules.gpu_code(facts.libraries(image.run("compiled", *image.distributions)), claimed)


def installed(image: Inside) -> Iterator[Conclusion]:
    found = facts.installed(image.run("installed", KERNELS))
    lock = requirements.versions(
        (image.root / lock_path(image.matrix.lock_name(image.image))).read_text(encoding="utf-8")
    )
    yield rules.mends(image.matrix, image.image, found)
    yield from rules.versions(rules.others(found.versions), lock, image.matrix.pinned_packages(image.image))
    yield from rules.recorded(found)
    yield from rules.flash_attention_4(image.matrix, image.image, found)
    yield from rules.start_kernels(image.matrix, image.image, found)


def hygiene(image: Inside) -> Iterator[Conclusion]:
    config = image.about()["Config"]
    found = facts.files(image.run("tree", options=AS_ROOT))
    yield rules.user(config["User"])
    yield from rules.hygiene(found, of_base(image.tag, config["Labels"] or {}, rules.findings(found)))
    steps = engine.capture(["docker", "history", "--no-trunc", "--format", "{{json .CreatedBy}}", image.tag])
    yield from rules.history([json.loads(line) for line in steps.splitlines()], config["Env"])


def start(image: Inside) -> Iterator[Conclusion]:
    """Whether the entrypoint and its name on PATH are one program; each is asked for its help, which needs no check."""
    said = [
        engine.capture(["docker", "run", "--rm", "--network=none", "--read-only", *options, image.tag, "--help"])
        for options in ((), (f"--entrypoint={NAME}",))
    ]
    yield rules.named(NAME, *said)


CHECKS: Final[dict[str, Callable[[Inside], Iterable[Conclusion]]]] = {
    "import": imports,
    "GPU code": gpu_code,
    "installed": installed,
    "hygiene": hygiene,
    "start": start,
}


def of_base(tag: str, labels: dict[str, str], paths: Sequence[str]) -> dict[str, str]:
    """Those of `paths` that are the same file in the base image, by its labels; none when the engine has no base."""
    name, digest = labels.get(f"{OCI}.base.name", ""), labels.get(f"{OCI}.base.digest", "")
    base = next((each for each in (f"{name}@{digest}", digest) if digest and engine.identity(each)), None)
    if base is None or not paths:
        return {}
    ours, theirs = checksums(tag, paths), checksums(base, paths)
    return {path: name for path in paths if path in theirs and ours.get(path) == theirs[path]}


def checksums(reference: str, paths: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of files in an image, by path; those that cannot be read are left out."""
    script = 'for path; do sha256sum "$path" 2>/dev/null; done; true'
    options = ["--rm", "--network=none", "--user=0", "--entrypoint=sh", reference]
    said = engine.capture(["docker", "run", *options, "-c", script, "sh", *paths])
    return {path: digest for digest, path in (line.split("  ", 1) for line in said.splitlines())}


# ---- output ----


def tables(inspected: Inspected) -> list[Part]:
    """A line for the image, and one for each row."""
    marks = {"pass": "ok", "fail": "FAIL", "n/a": "n/a"}
    rows = [(marks[row.verdict], row.check, row.subject, row.reason) for row in inspected.rows]
    passed = sum(row.verdict == "pass" for row in inspected.rows)
    summary = f"{inspected.id}: {passed} of {len(inspected.rows)} pass, {inspected.failures} fail"
    return [summary, Table(rows, wrapped=2, indent=2), ""]


def document(images: Sequence[Inspected]) -> str:
    """The same as JSON: `schema`, `passed`, and the images with their rows."""
    passed = not any(image.failures for image in images)
    return json.dumps({"schema": SCHEMA, "passed": passed, "images": [asdict(image) for image in images]}, indent=2)
