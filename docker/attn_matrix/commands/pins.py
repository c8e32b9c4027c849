"""`nox -s pins`: writes the digests that the base images have in their registries now into images.yaml.

It changes the digests and nothing else: people write that file, and their comments and layout stay.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Mapping
from typing import Final

from attn_matrix.errors import CommandFailed, MatrixError
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, load
from attn_matrix.matrix.source import parse

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
IMAGE: Final = re.compile(r"(?P<indent> +)image: [^,{}]+\n")


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser("pins")
    parser.set_defaults(handler=_handle)


def _handle(arguments: Namespace) -> int:
    path = arguments.root / FILE
    text = path.read_text(encoding="utf-8")
    bases = load(text).bases
    digests = {name: digest_of(base.image) for name, base in bases.items()}
    changed = [name for name, base in bases.items() if base.digest != digests[name]]
    path.write_text(refreshed(text, digests), encoding="utf-8")
    for name in changed:
        engine.say(f"{name}: {bases[name].image} is {digests[name]} now")
    engine.say(f"{len(changed)} of {len(bases)} digests changed" + ("; next: nox -s render" if changed else ""))
    return 0


def digest_of(image: str) -> str:
    """The digest that the registry of `image`, such as docker.io/library/debian:bookworm-slim, has for its tag.

    It is that of the list of its platforms where there is one. Raises EngineMissing, and CommandFailed when no registry
    answers or the answer has no digest.
    """
    try:
        answer = engine.capture(["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", image])
    except CommandFailed as error:
        raise CommandFailed(
            f"no registry says which digest {image} has: {error.lines[-1]}",
            f"{FILE} is as it was; this command needs a network and, for a private image, `docker login`",
        ) from error
    digest = str(json.loads(answer).get("digest"))
    if not DIGEST.fullmatch(digest):
        raise CommandFailed(f"the registry's digest of {image} is not one: {digest}")
    return digest


def refreshed(text: str, digests: Mapping[str, str]) -> str:
    """`text` of images.yaml with another digest for the bases named in `digests`, or the first one.

    Raises MatrixError when a digest is not in the line of its key, where this looks for it.
    """
    source, lines = parse(text), text.splitlines(keepends=True)
    edits = {name: ("digest" if "digest" in source.value["bases"][name] else "image") for name in digests}
    for name, key in edits.items():
        number = source.lines["bases", name, key]
        line = lines[number - 1]
        changed = with_digest(line, digests[name]) if key == "digest" else with_new_line(line, digests[name])
        if changed is None:
            raise MatrixError(f"{FILE}:{number}: bases.{name}: no place for its digest here: {line.strip()}")
        lines[number - 1] = changed
    return "".join(lines)


def with_digest(line: str, digest: str) -> str | None:
    """The line with this digest instead of its own; None when it has none."""
    return DIGEST.sub(digest, line) if DIGEST.search(line) else None


def with_new_line(line: str, digest: str) -> str | None:
    """A line `image: ...` and one with the digest after it; None when more than its image is in the line."""
    found = IMAGE.fullmatch(line)
    return f"{line}{found['indent']}digest: {digest}\n" if found else None
