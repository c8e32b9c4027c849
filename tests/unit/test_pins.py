"""`nox -s pins`: the digests of the base images, from a registry of the test's own, into images.yaml."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands.pins import digest_of, refreshed
from attn_matrix.errors import CommandFailed, MatrixError
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, load

TEXT = (ROOT / FILE).read_text(encoding="utf-8")
BASES = load(TEXT).bases
NEW = "sha256:" + "5" * 64
INDEX = json.dumps(
    {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
).encode()
DIGEST = "sha256:" + hashlib.sha256(INDEX).hexdigest()


class Registry(BaseHTTPRequestHandler):
    """What `docker buildx imagetools inspect` asks of a registry that holds one image index."""

    def do_GET(self) -> None:
        """The index by its tag or digest; everything else is unknown."""
        known = self.path in {"/v2/base/manifests/slim", f"/v2/base/manifests/{DIGEST}"}
        body = INDEX if known else b"{}"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/vnd.oci.image.index.v1+json" if known else "application/json")
        self.send_header("Docker-Content-Digest", DIGEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def registry(docker_engine: None) -> Iterator[str]:
    """The address of a registry on this machine: `docker buildx` speaks plain HTTP to those."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_digest_is_the_registrys(registry: str) -> None:
    """Of the whole index, as the engine would pull it by."""
    assert digest_of(f"{registry}/base:slim") == DIGEST


def test_a_registry_without_the_image_is_named(registry: str) -> None:
    """With what it said, and what has happened to the file."""
    with pytest.raises(CommandFailed) as caught:
        digest_of(f"{registry}/base:other")
    assert f"{registry}/base:other" in caught.value.lines[0]
    assert "not found" in caught.value.lines[0]
    assert "images.yaml is as it was" in caught.value.lines[1]


def test_the_command_changes_the_digests_alone(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every other byte of images.yaml, comments included, stays; a second call finds nothing to do."""
    text = TEXT
    for base in BASES.values():
        text = text.replace(base.image, f"{registry}/base:slim")
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    assert main(["--root", str(tmp_path), "pins"]) == 0
    assert f"{len(BASES)} of {len(BASES)} digests changed; next: nox -s render" in capsys.readouterr().err
    written = (tmp_path / FILE).read_text(encoding="utf-8")
    assert {base.digest for base in load(written).bases.values()} == {DIGEST}
    old = {base.digest for base in BASES.values()} - {None}
    added = sum(base.digest is None for base in BASES.values())
    assert set(text.splitlines()) - set(written.splitlines()) == {f"    digest: {digest}" for digest in old}
    assert len(written.splitlines()) == len(text.splitlines()) + added
    assert main(["--root", str(tmp_path), "pins"]) == 0
    assert f"0 of {len(BASES)} digests changed\n" in capsys.readouterr().err


def test_without_a_network_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the error names the image and what its registry's name resolved to."""
    shutil.copy(ROOT / FILE, tmp_path)

    def offline(command: list[str]) -> str:
        raise CommandFailed("exit code 1 from docker buildx", "ERROR: dial tcp: no such host")

    monkeypatch.setattr(engine, "capture", offline)
    assert main(["--root", str(tmp_path), "pins"]) == CommandFailed.exit_code
    first = next(iter(BASES.values())).image
    said = capsys.readouterr().err
    assert f"error: no registry says which digest {first} has: ERROR: dial tcp: no such host" in said
    assert (tmp_path / FILE).read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("answer", ["{}", '{"digest": "sha256:1"}', '{"digest": null}'])
def test_an_answer_without_a_digest_is_no_digest(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be written into images.yaml else."""
    monkeypatch.setattr(engine, "capture", lambda _: answer)
    with pytest.raises(CommandFailed, match="is not one"):
        digest_of("base:slim")


@pytest.mark.parametrize("name", BASES)
def test_only_the_base_that_is_named_changes(name: str) -> None:
    """Whichever it is."""
    changed = load(refreshed(TEXT, {name: NEW})).bases
    assert changed == {**BASES, name: BASES[name].model_copy(update={"digest": NEW})}


def test_a_mapping_in_one_line_is_as_good() -> None:
    """Both forms of YAML are in images.yaml."""
    two = f"bases:\n  a: {{image: b:c, digest: {DIGEST}}} # kept\n  d:\n    image: e:f\n    digest: {DIGEST}\n"
    first, second = refreshed(two, {"a": NEW}), refreshed(two, {"d": NEW})
    assert first == two.replace(DIGEST, NEW, 1)
    assert second == NEW.join(two.rsplit(DIGEST, 1))


def test_a_base_without_a_digest_gets_one() -> None:
    """In a line of its own; all others keep their numbers and places."""
    text = "bases:\n  a:\n    image: b:c # kept\n  d:\n    image: e:f\n"
    assert refreshed(text, {"a": NEW, "d": DIGEST}) == (
        f"bases:\n  a:\n    image: b:c # kept\n    digest: {NEW}\n  d:\n    image: e:f\n    digest: {DIGEST}\n"
    )


@pytest.mark.parametrize("entry", [f"\n    digest:\n      {DIGEST}\n", " {image: b:c}\n", " {\n    image: b:c,\n  }\n"])
def test_a_digest_without_a_place_is_an_error(entry: str) -> None:
    """Better than a file that stays old in silence, or one that is YAML no more."""
    with pytest.raises(MatrixError, match=r"images\.yaml:[23]: bases\.a: no place for its digest here: \S"):
        refreshed(f"bases:\n  a:{entry}", {"a": NEW})
