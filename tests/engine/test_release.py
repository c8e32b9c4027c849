"""An image is pushed by its digest, signed as bake.yml does it, and verified without a network.

The registry and cosign are Debian's, in a container; the key is made here, where a workflow signs under its own name.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from attn_matrix import ROOT

from tests.launcher.launchers import wait_until

HERE = Path(__file__).with_name("release")
IMAGE = "axolotl-attn-test:release"
KEYS = "-e COSIGN_PASSWORD= -w /keys"
LISTENS = ": </dev/tcp/127.0.0.1/5000"


def sh(script: str) -> tuple[int, str]:
    """Exit code and output of a line of shell."""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def ok(script: str) -> str:
    code, output = sh(script)
    assert code == 0, f"{script}: {output}"
    return output.strip()


@dataclass(frozen=True)
class Registry:
    """A registry that the engine reaches at `address`; its blobs and the keys are in volumes of its name."""

    name: str
    address: str

    def inside(self, command: str) -> tuple[int, str]:
        return sh(f"docker exec {KEYS} {self.name} {command}")

    def push(self, content: str) -> str:
        """The digest of a new image of one file."""
        tag = f"{self.address}/image:{uuid.uuid4().hex}"
        context = f"printf 'FROM scratch\\nCOPY <<EOF /file\\n{content}\\nEOF\\n' | docker build -q -t {tag} -"
        ok(context)
        ok(f"docker push -q {tag}")
        digest = ok(f"docker inspect --format '{{{{index .RepoDigests 0}}}}' {tag}").partition("@")[2]
        ok(f"docker rmi {tag}")
        return digest

    def verified(self, digest: str, key: str = "cosign") -> tuple[int, str]:
        """What cosign says of an image in a container without a network, with this registry's blobs."""
        verify = f"cosign verify --offline --insecure-ignore-tlog --key {key}.pub localhost:5000/image@{digest}"
        wait = f"until {LISTENS} 2>/dev/null; do sleep 0.2; done"
        serve = f"docker-registry serve /etc/registry.yml >/dev/null 2>&1 & {wait}; {verify}"
        volumes = f"-v {self.name}:/registry:ro -v {self.name}-keys:/keys:ro"
        return sh(f'docker run --rm --network none {KEYS} {volumes} {IMAGE} bash -c "{serve}"')


@pytest.fixture(scope="module")
def registry(docker_engine: None) -> Iterator[Registry]:
    code, output = sh(f"docker build -q -t {IMAGE} {HERE}")
    if code and "Unable to locate package" in output:
        pytest.skip("needs cosign and docker-registry, which this Debian mirror does not have")
    assert code == 0, output
    name = f"axolotl-attn-test-{uuid.uuid4().hex[:12]}"
    sign = f"-v {ROOT}/.github/sign:/usr/local/bin/sign:ro"
    ok(f"docker run -d --rm --name {name} -p 127.0.0.1::5000 -v {name}:/registry -v {name}-keys:/keys {sign} {IMAGE}")
    try:
        started = Registry(name, ok(f"docker port {name} 5000").splitlines()[0])
        wait_until(lambda: started.inside(f"bash -c '{LISTENS}'")[0] == 0)
        ok(f"docker exec {KEYS} {name} cosign generate-key-pair")
        ok(f"docker exec {KEYS} {name} cosign generate-key-pair --output-key-prefix other")
        yield started
    finally:
        sh(f"docker rm -f {name}; docker volume rm {name} {name}-keys")


@pytest.fixture(scope="module")
def signed(registry: Registry) -> str:
    """The digest of an image that is signed."""
    digest = registry.push("as it was inspected")
    code, output = registry.inside(f"sign localhost:5000/image@{digest} --key cosign.key --tlog-upload=false")
    assert code == 0, output
    return digest


def test_a_signed_image_is_verified_without_a_network(registry: Registry, signed: str) -> None:
    code, output = registry.verified(signed)
    assert code == 0, output
    assert f'"docker-manifest-digest":"{signed}"' in output


def test_a_signature_of_somebody_else_is_refused(registry: Registry, signed: str) -> None:
    code, output = registry.verified(signed, key="other")
    assert code != 0
    assert "invalid signature" in output


def test_an_image_with_a_changed_layer_is_refused(registry: Registry, signed: str) -> None:
    """It has another digest, which nobody has signed."""
    changed = registry.push("as somebody changed it")
    assert changed != signed
    code, output = registry.verified(changed)
    assert code != 0
    assert "no signatures found" in output


def test_only_a_digest_is_signed(registry: Registry, signed: str) -> None:
    code, output = registry.inside("sign localhost:5000/image:latest --key cosign.key --tlog-upload=false")
    assert (code, "names no digest" in output) == (2, True), output


def test_a_layer_that_was_changed_behind_a_signed_digest_is_refused(registry: Registry) -> None:
    """Its signature still holds, being one of the digest; so whoever fetches the layer compares that, as engines do."""
    digest = registry.push("to be changed in the registry")
    code, output = registry.inside(f"sign localhost:5000/image@{digest} --key cosign.key --tlog-upload=false")
    assert code == 0, output
    fetch = f"cosign save --dir /tmp/fetched localhost:5000/image@{digest}"
    assert registry.inside(fetch)[0] == 0

    manifest = json.loads(ok(f"docker exec {registry.name} cat {_blob(digest)}"))
    layer = _blob(manifest["layers"][0]["digest"])
    ok(f"docker exec {registry.name} sh -c 'rm -r /tmp/fetched; printf X | dd of={layer} bs=1 seek=20 conv=notrunc'")

    assert registry.verified(digest)[0] == 0
    code, output = registry.inside(fetch)
    assert (code != 0, "sha256 checksum" in output) == (True, True), output


def _blob(digest: str) -> str:
    """The registry's file of a digest."""
    kind, _, value = digest.partition(":")
    return f"/registry/docker/registry/v2/blobs/{kind}/{value[:2]}/{value}/data"
