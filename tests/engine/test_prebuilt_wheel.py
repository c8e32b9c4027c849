"""Prebuilt wheels from a real server: what a build takes, what it refuses, and what `inspect` finds in what it took.

The server is on this host's loopback, where BuildKit's own downloads reach it because the engine runs here too. The
wheels stand for FlashAttention 3: they have its name and version and a library with GPU code in it, and no kernel.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from attn_matrix import ROOT
from attn_matrix.commands import inspection
from attn_matrix.commands import inspection_rules as rules
from attn_matrix.commands.inspection import Inside
from attn_matrix.commands.inspection_rules import Conclusion
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine, images
from attn_matrix.host.sources import Sources, default_bundle, default_wheelhouse
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.rendered.files import rendered, write
from inside import facts

from tests.unit.test_elf import CUBIN, entry, fat_binary

IMAGE = "fa3-cu130-base"
TARGET = "fa3-wheel-cu130"
PACKAGE = "flash-attn-3"
PROJECT = "attn-test-wheels"
# The flag of a fat binary's entry whose code runs on that architecture alone: sm_90a.
SPECIFIC = 0x0010_0000

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to compile the library in a wheel")


@dataclass(frozen=True)
class Server:
    """Files of `folder` at `address`."""

    folder: Path
    address: str


@pytest.fixture(scope="module")
def server(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Server(folder, f"http://127.0.0.1:{running.server_port}")
        running.shutdown()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads; its images have names of their own."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("docker", "entrypoint"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", root)
    return root


def wheel(folder: Path, name: str, code: bytes, source: str = "") -> str:
    """Write a wheel called `name` with a library that holds GPU `code` and the C code `source`; returns its SHA-256."""
    distribution, version, *_ = name.split("-")
    files = {
        "flash_attn_interface.py": b"import flash_attn_3\n",
        "flash_attn_3/__init__.py": b"",
        "flash_attn_3/_C.abi3.so": library(folder, code, source),
        f"{distribution}-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n".encode()
        ),
        f"{distribution}-{version}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: false\nTag: cp39-abi3-linux_x86_64\n"
        ),
    }
    record = f"{distribution}-{version}.dist-info/RECORD"
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def library(folder: Path, code: bytes, source: str) -> bytes:
    """A shared library with `code` in the section that nvcc puts it in."""
    (folder / "code.bin").write_bytes(code)
    (folder / "code.c").write_text(f'__asm__(".section .nv_fatbin,\\"a\\"\\n.incbin \\"code.bin\\"\\n");\n{source}\n')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "code.so", "code.c"], cwd=folder, check=True)
    return (folder / "code.so").read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def sm(architecture: int, flags: int = 0) -> bytes:
    return fat_binary(entry(CUBIN, architecture, flags))


def described(root: Path, sha256: str) -> tuple[Matrix, Image]:
    """images.yaml with the wheel of this hash, rendered into `root`."""
    document = yaml.load((ROOT / FILE).read_text(encoding="utf-8"), yaml.BaseLoader)
    document["project"]["name"] = PROJECT
    document["wheels"][PACKAGE]["prebuilt"]["cu130"]["sha256"] = sha256
    (root / FILE).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    write(root, rendered(root))
    matrix = read(root / FILE)
    return matrix, next(image for image in matrix.images if image.id == IMAGE)


def file_name() -> str:
    return read(ROOT / FILE).wheels[PACKAGE].prebuilt["cu130"].file


def sources() -> Sources:
    return Sources(None, True, default_wheelhouse(os.environ), default_bundle(os.environ))


def build(root: Path, sha256: str, url: str) -> Inside:
    """Build the image with the file at `url`: images.yaml itself would not take an address without TLS."""
    matrix, image = described(root, sha256)
    images.build(root, matrix, [image], sources(), [f"--set={TARGET}.args.WHEEL_URL={url}"])
    return Inside(root, inspection.as_built(matrix, image), image)


@pytest.fixture
def removed() -> Iterator[None]:
    """The images of this test are gone afterwards."""
    yield
    subprocess.run(["docker", "rmi", "--force", f"{PROJECT}:{IMAGE}"], capture_output=True, check=False)


def findings(image: Inside) -> dict[str, list[Conclusion]]:
    """What `inspect` concludes of the wheel, by check; of torch beside it nothing, which takes a minute."""
    claimed = {PACKAGE: rules.claims(image.matrix, image.image)[PACKAGE]}
    held = facts.installed(image.run("installed", inspection.KERNELS)).versions
    expected = image.matrix.kernel_packages(image.image)
    return {
        "import": list(rules.imports(facts.loads(image.run("loading", PACKAGE)))),
        "GPU code": list(rules.gpu_code(facts.libraries(image.run("compiled", PACKAGE)), claimed)),
        "lock": [row for row in rules.versions(held, {}, expected) if row.subject in (PACKAGE, "versions")],
    }


def failing(rows: list[Conclusion]) -> dict[str, str]:
    return {row.subject: row.reason for row in rows if row.verdict == "fail"}


def test_the_right_file_is_taken_and_proved(server: Server, repository: Path, removed: None) -> None:
    """Its code for Hopper, beside code for Ampere that this image needs not, and its version are what is claimed."""
    sha256 = wheel(server.folder, file_name(), sm(80) + sm(90, SPECIFIC))
    image = build(repository, sha256, f"{server.address}/{file_name().replace('+', '%2B')}")
    found = findings(image)

    assert {check: failing(rows) for check, rows in found.items()} == {"import": {}, "GPU code": {}, "lock": {}}
    assert {row.subject: row.reason for row in found["GPU code"]} == {PACKAGE: "sm_80 sm_90a"}
    assert "flash_attn_3/_C.abi3.so" in {row.subject for row in found["import"]}
    labels = image.about()["Config"]["Labels"]
    assert labels["dev.axolotl-attn.prebuilt"] == f"{PACKAGE}@sha256:{sha256}"


def test_a_wheel_for_another_gpu_and_another_torch_is_found(server: Server, repository: Path, removed: None) -> None:
    """The hash of images.yaml says which file it is, not that it fits: `inspect` refuses it twice."""
    needs_another = "extern int _ZN2at5OtherEv(void); int f(void) { return _ZN2at5OtherEv(); }"
    sha256 = wheel(server.folder, file_name(), sm(80), needs_another)
    found = findings(build(repository, sha256, f"{server.address}/{file_name()}"))

    assert failing(found["GPU code"]) == {PACKAGE: "no code for 9.0; it has sm_80"}
    assert "undefined symbol: _ZN2at5OtherEv" in failing(found["import"])["flash_attn_3/_C.abi3.so"]


@pytest.mark.parametrize("name", ["another.whl", "absent.whl"])
def test_another_file_and_none_are_refused(
    server: Server, repository: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Nothing is built, BuildKit says that the hash is another, and the error says from where, and what does without.

    An error page has another hash too, which is all that BuildKit tells of it.
    """
    (server.folder / "another.whl").write_bytes(b"not the wheel")
    url = f"{server.address}/{name}"
    with pytest.raises(CommandFailed) as caught:
        build(repository, "0" * 64, url)

    said = str(caught.value)
    assert "digest mismatch" in capfd.readouterr().err
    assert f"{TARGET} is downloaded from https://github.com/" in said
    assert "--from-source compiles here; --compiled DIR takes" in said
    assert not engine.identity(f"{PROJECT}:{IMAGE}")


def test_a_wheel_is_carried_to_a_machine_that_cannot_reach_its_publisher(
    server: Server, repository: Path, removed: None, tmp_path: Path
) -> None:
    """`--wheels` writes what it downloads, and `--compiled` takes it from there; its address is asked no more."""
    matrix, image = described(repository, wheel(server.folder, file_name(), sm(90, SPECIFIC)))
    order = images.Order(repository, matrix, [image], sources())
    images.export(order, tmp_path, [f"--set={TARGET}.args.WHEEL_URL={server.address}/{file_name()}"])
    assert [path.name for path in tmp_path.glob("*/*")] == [file_name()]

    images.build(repository, matrix, [image], replace(sources(), compiled=tmp_path))
    held = facts.installed(Inside(repository, matrix, image).run("installed", inspection.KERNELS)).versions
    assert held[PACKAGE] == matrix.kernel_packages(image)[PACKAGE]
