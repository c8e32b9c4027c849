"""The check without an engine: what is installed when, and how the environment is laid out."""

from __future__ import annotations

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.errors import CommandFailed, UsageError
from attn_matrix.host import engine, environment
from attn_matrix.host.sources import Sources, torch_backend
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix, lock_path, spec_path
from attn_matrix.rendered.bake import arguments

MATRIX = read(ROOT / FILE)
IMAGE = MATRIX.images[0]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what an environment is made from."""
    for name in (lock_path(IMAGE.platform), spec_path(IMAGE.id)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "entrypoint", tmp_path / "entrypoint")
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, repository: Path) -> list[list[str]]:
    """The calls of uv, which makes an empty directory of the environment here."""
    seen: list[list[str]] = []

    def call(command: Sequence[str], **_: object) -> None:
        seen.append(list(command))
        if command[1] == "venv":
            shutil.rmtree(command[-1], ignore_errors=True)
            Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(engine, "call", call)
    return seen


def prepare(repository: Path, matrix: Matrix = MATRIX, image: Image = IMAGE) -> Path:
    return environment.prepare(repository, matrix, image, Sources())


def test_it_is_laid_out_as_the_image_is(repository: Path, calls: list[list[str]]) -> None:
    """The entrypoint's folder, and beside it what the image claims about itself."""
    venv = prepare(repository)
    assert (venv / "attn/entrypoint/__main__.py").is_file()
    assert (venv / "attn/image.json").read_text() == (ROOT / spec_path(IMAGE.id)).read_text()
    assert not list(venv.glob("attn/**/__pycache__"))


def test_a_second_run_installs_nothing(repository: Path, calls: list[list[str]]) -> None:
    """The two calls of uv are made once."""
    prepare(repository)
    assert [command[:2] for command in calls] == [["uv", "venv"], ["uv", "pip"]]
    prepare(repository)
    assert len(calls) == 2


def test_a_changed_lock_installs_again(repository: Path, calls: list[list[str]]) -> None:
    """What is installed is what the lock says."""
    prepare(repository)
    with (repository / lock_path(IMAGE.platform)).open("a") as lock:
        lock.write("another==1\n")
    prepare(repository)
    assert len(calls) == 4


def test_an_installation_that_failed_is_done_again(
    repository: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an environment is never taken for a whole one."""
    with monkeypatch.context() as patch:
        patch.setattr(environment, "_copy", lambda *_: None)
        patch.setattr(Path, "write_text", lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(repository)
    prepare(repository)
    assert len(calls) == 4


def test_an_edited_entrypoint_is_run_as_edited(repository: Path, calls: list[list[str]]) -> None:
    """Our own files are copied every time, and what is gone there is gone here."""
    prepare(repository)
    (repository / "entrypoint/new.py").touch()
    (repository / "entrypoint/spec.py").unlink()
    venv = prepare(repository)
    assert (venv / "attn/entrypoint/new.py").exists()
    assert not (venv / "attn/entrypoint/spec.py").exists()


def test_everything_is_installed_from_the_hashed_lock(tmp_path: Path) -> None:
    """torch and the kernels in one call, as the layers of the Dockerfile have them in two."""
    image = next(image for image in MATRIX.images if image.id == "fa4-cu128-base")
    _, install = environment.install_commands(tmp_path, MATRIX, image, Sources())
    assert "--require-hashes" in install
    assert install[install.index("--constraints") + 1] == lock_path("cu128")
    pins = MATRIX.platforms["cu128"].pins
    assert {f"torch=={pins['torch']}", f"flash-attn-4=={pins['flash-attn-4']}"} < set(install)
    assert not [
        argument for argument in install if argument.startswith(("xformers", "--torch-backend", "--find-links"))
    ]


def test_pytorchs_index_is_asked_unless_the_wheelhouse_has_torch(tmp_path: Path) -> None:
    """A wheelhouse without torch does not replace it; torchvision is not torch."""
    (tmp_path / "torchvision-1.0-py3-none-any.whl").touch()
    assert torch_backend("cpu", None) == ["--torch-backend=cpu"]
    assert torch_backend("cpu", tmp_path) == ["--torch-backend=cpu"]
    assert torch_backend("", None) == []
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert torch_backend("cpu", tmp_path) == []


def test_the_environment_comes_first_on_path(tmp_path: Path) -> None:
    """CMD after the check gets the python of the environment, as in the image."""
    variables = environment.variables(tmp_path, {"PATH": "/usr/bin"})
    assert variables["PATH"] == f"{tmp_path}/bin:/usr/bin"
    assert variables["VIRTUAL_ENV"] == str(tmp_path)


def test_a_prebuilt_wheel_is_installed_by_its_hash(tmp_path: Path) -> None:
    """In a call of its own, since the lock does not know it; another hash makes another environment."""
    image = next(image for image in MATRIX.images if image.id == "fa2-cu128-base")
    (wheel,) = MATRIX.prebuilt_wheels(image).values()
    _, locked, downloaded = environment.install_commands(tmp_path, MATRIX, image, Sources())
    assert {"--require-hashes", "--no-deps"} < set(downloaded)
    assert downloaded[-1] == f"flash-attn @ {wheel.url}#sha256={wheel.sha256}"
    assert not [argument for argument in locked if argument.startswith("flash-attn")]
    fingerprints = {environment.fingerprint("", arguments(MATRIX, image), wheels) for wheels in ([], ["x"], ["y"])}
    assert len(fingerprints) == 3


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A wheel at an address on this host's loopback: the address and its SHA-256."""
    folder = tmp_path / "published"
    folder.mkdir()
    info = "small_kernel-1.0+cu1.dist-info"
    with zipfile.ZipFile(folder / "small_kernel-1.0+cu1-py3-none-any.whl", "w") as archive:
        archive.writestr("small_kernel.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-kernel\nVersion: 1.0+cu1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (wheel,) = folder.iterdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{wheel.name.replace('+', '%2B')}"
        yield url, hashlib.sha256(wheel.read_bytes()).hexdigest()
        server.shutdown()


def test_uv_takes_the_file_with_that_hash_and_no_other(
    published: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The call of uv, made: with another hash nothing is installed, and uv says why."""
    url, sha256 = published
    image = next(image for image in MATRIX.images if image.id == "fa2-cu128-base")
    for hashed in ("0" * 64, sha256):
        monkeypatch.setattr(
            environment, "prebuilt", lambda *_, hashed=hashed: [f"small-kernel @ {url}#sha256={hashed}"]
        )
        venv = tmp_path / hashed
        make, _, download = environment.install_commands(venv, MATRIX, image, Sources())
        engine.call(make)
        if hashed == sha256:
            engine.call(download)
        else:
            with pytest.raises(CommandFailed):
                engine.call(download)
            assert "Hash mismatch" in capfd.readouterr().err
        assert bool(list(venv.glob("lib/python*/site-packages/small_kernel.py"))) == (hashed == sha256)


def test_what_is_compiled_from_source_takes_an_engine(repository: Path, calls: list[list[str]]) -> None:
    """No index has it: the error says what to do, before anything is installed."""
    with pytest.raises(UsageError, match="fa2-cu128-ada holds flash-attn, compiled from source") as caught:
        prepare(repository, image=next(image for image in MATRIX.images if image.id == "fa2-cu128-ada"))
    assert "Docker Engine" in caught.value.lines[0]
    assert calls == []
