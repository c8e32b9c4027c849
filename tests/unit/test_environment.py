"""The check without an engine: what is installed when, and how the environment is laid out."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.errors import CommandFailed, UsageError
from attn_matrix.host import dockerfile, engine, environment
from attn_matrix.host.sources import Sources, torch_backend
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix, lock_path, spec_path
from attn_matrix.rendered.bake import DOCKERFILE, arguments

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


def variables(tmp_path: Path, caller: dict[str, str], **given: str) -> dict[str, str]:
    return environment.variables(ROOT, tmp_path, arguments(MATRIX, IMAGE) | given, caller)


def test_the_environment_comes_first_on_path(tmp_path: Path) -> None:
    """CMD after the check gets the python of the environment, as in the image."""
    found = variables(tmp_path, {"PATH": "/usr/bin", "VIRTUAL_ENV": "/another"})
    assert found["PATH"] == f"{tmp_path}/bin:/usr/bin"
    assert found["VIRTUAL_ENV"] == str(tmp_path)


def test_a_program_gets_every_variable_of_the_image(tmp_path: Path) -> None:
    """By the Dockerfile itself, so that none is forgotten here; but who the user is stays."""
    text = (ROOT / DOCKERFILE).read_text(encoding="utf-8")
    of_image = text.partition(" AS image\n")[2].partition("\nCOPY")[0]
    named = set(re.findall(r"^(?:ENV|   ) ([A-Z_]+)=", of_image, re.MULTILINE))
    found = variables(tmp_path, {})
    assert {"TRITON_CACHE_DIR", "TORCH_CUDNN_SDPA_DEPRIORITIZED", "FLASH_ATTENTION_TRITON_AMD_ENABLE"} <= named
    assert found.keys() == named - {"HOME", "USER", "LOGNAME"}
    assert found["TRITON_CACHE_DIR"] == f"{tmp_path}/cache/triton"
    assert [value for value in found.values() if value.startswith(("/opt", "/tmp/attn"))] == []
    assert found["FLASH_ATTENTION_TRITON_AMD_ENABLE"] == "FALSE"
    assert variables(tmp_path, {}, TRITON_AMD="TRUE")["FLASH_ATTENTION_TRITON_AMD_ENABLE"] == "TRUE"


def test_what_the_caller_has_set_stays(tmp_path: Path) -> None:
    """As with `docker run -e`: 0 brings cuDNN's attention back."""
    assert variables(tmp_path, {})["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "1"
    assert "TORCH_CUDNN_SDPA_DEPRIORITIZED" not in variables(tmp_path, {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"})


def test_env_instructions_are_read_as_docker_reads_them() -> None:
    """Over lines, with comments between them and quoted blanks; only those of the stage; arguments stay to be given."""
    text = (
        "FROM a AS first\nENV A=0\nFROM first AS second\n"
        'ENV A=1 \\\n    # why\n    B="two words"\nARG C\nENV C=$C:/x\nRUN x\nFROM second AS third\nENV D=4\n'
    )
    assert dockerfile.of_stage(text, "second") == {"A": "1", "B": "two words", "C": "$C:/x"}
    with pytest.raises(UsageError, match="no stage 'fourth'; its stages: first, second, third"):
        dockerfile.of_stage(text, "fourth")


WHEELHOUSES = {
    "with torch": ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "cpu"),
    "with torchvision": ("torchvision-1.0-py3-none-any.whl", "cpu"),
    "for the default index": ("torchvision-1.0-py3-none-any.whl", ""),
    "empty": (None, "cpu"),
}


@pytest.mark.parametrize(("wheel", "backend"), WHEELHOUSES.values(), ids=WHEELHOUSES)
def test_a_build_asks_the_same_index_for_torch(wheel: str | None, backend: str, tmp_path: Path) -> None:
    """install-locked runs in a build, where there is none of our Python: it must choose as torch_backend does."""
    (tmp_path / "wheelhouse").mkdir()
    if wheel:
        (tmp_path / "wheelhouse" / wheel).touch()
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\ncase "$*" in *--no-index*) exit 1;; esac\necho "$@"\n', encoding="utf-8")
    uv.chmod(0o755)
    script = (ROOT / "docker/scripts/install-locked").read_text(encoding="utf-8").replace("/run/", f"{tmp_path}/")
    command = ["sh", "-s", "lock.txt", backend, "torch==2.13.0"]
    said = subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout
    switches = [word for word in said.split() if word.startswith("--torch-backend")]
    assert said.split()[-1] == "torch==2.13.0"
    assert switches == torch_backend(backend, tmp_path / "wheelhouse")


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
