"""What bake is asked for: pure of any engine, except for the two questions to it, which the tests answer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands import build
from attn_matrix.errors import CommandFailed, StaleFiles, UsageError
from attn_matrix.host import bases, engine, images, sources
from attn_matrix.host.bases import BaseUsed
from attn_matrix.host.images import logs_of_failures
from attn_matrix.host.sources import Sources
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.select import pick
from attn_matrix.rendered.bake import OCI
from attn_matrix.rendered.files import BAKE_FILE, FROM_SOURCE, rendered, write

DATA = Path(__file__).parents[1] / "data"
SMALL = read(DATA / "valid.yaml")
OURS = read(ROOT / FILE)
PINNED = SMALL.bases["plain"]
LOCAL = "sha256:" + "2" * 64
Answers = Callable[..., None]
# As BuildKit dates them, to the nanosecond.
BEFORE, DURING = "2026-11-22T11:59:59.999999999Z", "2026-11-22T12:00:00.144332242Z"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the engine has, by reference, and whether a registry answers."""

    def give(images: dict[str, str], *, registry: bool = False) -> None:
        monkeypatch.setattr(engine, "identity", images.get)
        monkeypatch.setattr(engine, "in_registry", lambda _reference: registry)

    return give


def test_the_pinned_base_is_the_default(answers: Answers) -> None:
    """An image of the same tag in the engine is not enough: nobody asked for it."""
    answers({PINNED.image: LOCAL})
    assert bases.base_used(PINNED, Sources()) == BaseUsed(PINNED.reference, PINNED.image, PINNED.digest or "")


@pytest.mark.parametrize(
    ("images", "registry"),
    [
        ({PINNED.image: LOCAL, PINNED.reference: LOCAL}, False),
        ({PINNED.image: LOCAL}, True),
        ({}, False),
    ],
)
def test_local_base_keeps_the_pin_where_it_can(answers: Answers, images: dict[str, str], registry: bool) -> None:
    """The engine has the pinned image, or a registry does, or there is nothing to fall back to."""
    answers(images, registry=registry)
    assert bases.base_used(PINNED, Sources(local_base=True)).reference == PINNED.reference


def test_local_base_is_loud_and_labels_what_was_used(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    """No registry, and the engine has the tag: that is used, said on stderr, and its own digest goes into the label."""
    answers({PINNED.image: LOCAL})
    used = bases.base_used(PINNED, Sources(local_base=True))
    assert used == BaseUsed(PINNED.image, PINNED.image, LOCAL)
    assert "NOT THE PINNED BASE" in capsys.readouterr().err
    assert f"labels.{OCI}.base.digest={LOCAL}" in used.settings()


@pytest.mark.parametrize(
    ("reference", "name", "digest"),
    [("own:1", "own:1", LOCAL), ("own@sha256:33", "own", "sha256:33"), ("other:1", "other:1", "")],
)
def test_a_base_that_is_asked_for(answers: Answers, reference: str, name: str, digest: str) -> None:
    """Its digest is the reference's own, else the engine's, else unknown: never the pinned one's."""
    answers({"own:1": LOCAL})
    assert bases.base_used(PINNED, Sources(base=reference)) == BaseUsed(reference, name, digest)


def test_the_command_names_file_targets_and_base() -> None:
    """Bake loads what it builds, and each target gets its own base."""
    bases = {"a-cpu": BaseUsed("x:1", "x:1", "d1"), "b-cpu": BaseUsed("y:1", "y:1", "d2")}
    command = images.bake_command(["a-cpu", "b-cpu"], bases, Sources(), None)
    assert command[:5] == ["docker", "buildx", "bake", "--file", BAKE_FILE]
    assert command[-2:] == ["a-cpu", "b-cpu"]
    assert {"--set=a-cpu.args.BASE=x:1", "--set=b-cpu.args.BASE=y:1"} < set(command)
    assert not [argument for argument in command if "wheelhouse" in argument or "secrets" in argument]


def test_wheels_and_certificates_are_allowed_and_named(tmp_path: Path) -> None:
    """A named context and a secret; bake reads neither from outside of the tree without being allowed to."""
    command = images.bake_command([], {}, Sources(wheelhouse=tmp_path, ca=tmp_path / "ca.pem"), None)
    assert f"--set=*.contexts.wheelhouse={tmp_path}" in command
    assert f"--set=*.secrets=id=ca,src={tmp_path / 'ca.pem'}" in command
    assert {f"--allow=fs.read={tmp_path}", f"--allow=fs.read={tmp_path / 'ca.pem'}"} < set(command)


def test_the_revision_is_a_label_and_no_argument() -> None:
    """An argument would build every layer again at each commit."""
    command = images.bake_command([], {}, Sources(), "abc-dirty")
    assert [argument for argument in command if "abc-dirty" in argument] == [f"--set=*.labels.{OCI}.revision=abc-dirty"]


def test_outside_of_a_checkout_there_is_no_revision(tmp_path: Path) -> None:
    """A tree that was downloaded as an archive builds too."""
    assert images.revision(tmp_path) is None


def test_pip_find_links_is_a_wheelhouse_when_it_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip also takes links there, and those are none. The path is a whole one: programs run in other directories."""
    assert sources.default_wheelhouse({"PIP_FIND_LINKS": str(tmp_path)}) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    assert sources.default_wheelhouse({"PIP_FIND_LINKS": tmp_path.name}) == tmp_path
    assert sources.default_wheelhouse({"PIP_FIND_LINKS": "https://example.org/wheels"}) is None
    assert sources.default_wheelhouse({}) is None


def test_ssl_cert_file_is_the_bundle_when_it_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, since it was not asked for."""
    bundle = tmp_path / "ca.pem"
    assert sources.default_bundle({"SSL_CERT_FILE": str(bundle)}) is None
    bundle.touch()
    assert sources.default_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle
    assert f"{bundle} (from SSL_CERT_FILE)" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The small matrix, rendered."""
    shutil.copy(DATA / "valid.yaml", tmp_path / FILE)
    write(tmp_path, rendered(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [BAKE_FILE, "docker/specs/fa4-cu128.json"])
def test_a_stale_file_is_not_built_from(repository: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The image would not be what images.yaml says."""
    images.require_fresh(repository, SMALL)
    (repository / name).write_text("{}", encoding="utf-8")
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "status", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(StaleFiles, match=rf"{name} is not what images\.yaml says(.|\n)*nox -s render"):
        images.build(repository, SMALL, SMALL.images, Sources())


def test_a_stale_page_of_images_keeps_nobody_from_building(repository: Path) -> None:
    """The builder never sees it."""
    (repository / "docker/IMAGES.md").write_text("", encoding="utf-8")
    images.require_fresh(repository, SMALL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error: fa4-cu128"),
        (["fa4-cu12"], "did you mean 'fa4-cu128'?"),
        (["*", "--wheelhouse", "/no/such"], "--wheelhouse: there is no directory /no/such"),
        (["*", "--ca", "/no/such"], "--ca: there is no file /no/such"),
        (["sdpa-cpu", "--head-dims", "96"], "none of these images compiles kernels"),
    ],
)
def test_arguments_that_can_never_work(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Exit code 2, and what would work."""
    assert main(["--root", str(repository), "build", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_failed_build_says_what_may_help(
    repository: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    """The targets, bake's exit code, and the two switches for machines without a network."""
    answers({})
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "status", lambda _command, **_: 17)
    assert main(["--root", str(repository), "build", "sdpa-*"]) == 4
    error = capsys.readouterr().err
    assert "building sdpa-cpu, sdpa-cu128 failed (exit code 17)" in error
    assert "--base" in error
    assert "--wheelhouse" in error


def test_no_engine_is_the_first_thing_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, with what to install."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert main(["--root", str(repository), "build", "sdpa-cpu"]) == 3
    assert "docs.docker.com/engine/install" in capsys.readouterr().err


def test_head_dims_are_added_to_the_images_that_compile_kernels() -> None:
    """Those of images.yaml stay, each comes once, and the other images of the same build get none."""
    told = build.head_dims(OURS, pick(OURS, ["*-cu128"]), "96,64,192/128")
    assert told == [f"--set={name}-cu128.args.HEAD_DIMS=64 128 96 192/128" for name in ("fa4", "all")]


@pytest.mark.parametrize("typed", ["96 192", "96,", "d96", "096", "96/"])
def test_head_dims_that_are_none(typed: str) -> None:
    """Said before anything is built."""
    with pytest.raises(UsageError, match=r"--head-dims: .* is not head dims such as"):
        build.head_dims(OURS, OURS.images, typed)


def before(stage: str) -> set[str]:
    """The arguments that the Dockerfile declares above a line."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert stage in text
    lines = text.partition(stage)[0].splitlines()
    return {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG ")}


def test_nothing_of_one_image_comes_before_the_shared_layers() -> None:
    """An argument is part of the cache key of every RUN after it: before `axolotl` there is only the platform's."""
    assert before("FROM torch AS axolotl") == {"BASE", "BUILDER", "PYTHON", "LOCK", "TORCH", "TORCH_BACKEND"}
    assert before("FROM torch AS toolkit") - before("FROM torch AS axolotl") == {"AXOLOTL", "WITHOUT"}


def test_a_platform_without_a_lock_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would say what is installed: the reason is told, and what makes a lock."""
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "status", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(UsageError, match=r"^sdpa-rocm, sdpa-rocm-base: cannot be built yet: .*nox -s lock -- rocm"):
        images.build(ROOT, OURS, pick(OURS, ["sdpa-rocm*"]), Sources())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> list[str]:
    """What bake was called with; nothing is built."""
    calls: list[str] = []
    answers({})
    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(images, "require_fresh", lambda *_: None)

    def status(command: list[str], **_: object) -> int:
        calls.extend(command)
        return 0

    monkeypatch.setattr(engine, "status", status)
    return calls


def test_wheels_are_compiled_alone_into_a_directory(told: list[str], tmp_path: Path) -> None:
    """No image is built, each wheel goes to its own folder, and an overridden builder and jobs reach them."""
    arguments = ["--wheels", str(tmp_path), "--builder", "own:1", "--max-jobs", "2"]
    assert main(["build", "fa2-cu128-hopper", "fa4-cu128-base", *arguments]) == 0
    assert told[-1] != "fa4-cu128-base"
    assert "fa2-wheel-cu128-hopper" in told
    assert "fa2-cu128-hopper" not in told
    assert f"--set=fa2-wheel-cu128-hopper.output=type=local,dest={tmp_path}/fa2-wheel-cu128-hopper" in told
    assert {
        "--set=fa2-wheel-cu128-hopper.args.BUILDER=own:1",
        "--set=fa2-wheel-cu128-hopper.args.MAX_JOBS=2",
        f"--allow=fs.write={tmp_path}",
    } < set(told)
    assert "--load" not in told


def test_compiled_wheels_are_used_instead_of_compiling(told: list[str], tmp_path: Path) -> None:
    """From the folders that --wheels writes, and of the version that the image claims."""
    folder, fa2 = tmp_path / "fa2-wheel-cu128-ada", pick(OURS, ["fa2-cu128-ada"])
    folder.mkdir()
    with pytest.raises(UsageError, match="has no wheel of fa2-wheel-cu128-ada"):
        images.build(ROOT, OURS, fa2, Sources(compiled=tmp_path))
    wheel = folder / "flash_attn-2.8.2-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    version = OURS.platforms["cu128"].pins["flash-attn"]
    with pytest.raises(UsageError, match=rf"flash_attn-2\.8\.2-\S+ is not flash-attn {re.escape(version)}"):
        images.build(ROOT, OURS, fa2, Sources(compiled=tmp_path))
    wheel.rename(folder / f"flash_attn-{version}-cp311-cp311-linux_x86_64.whl")
    assert main(["build", "fa2-cu128-ada", "--compiled", str(tmp_path)]) == 0
    assert f"--set=fa2-cu128-ada.contexts.fa2={folder}" in told
    assert "--load" in told


def test_from_source_merges_the_second_bake_file(told: list[str]) -> None:
    """Without it what images.yaml has prebuilt is downloaded, and gets no compiler."""
    compiler = ["--builder", "own:1", "--max-jobs", "2"]
    assert main(["build", "fa2-cu128", *compiler]) == 0
    assert not [
        argument for argument in told if "from-source" in argument or "BUILDER" in argument or "JOBS" in argument
    ]
    assert main(["build", "fa2-cu128", *compiler, "--from-source"]) == 0
    files = [after for argument, after in pairwise(told) if argument == "--file"]
    assert files[-2:] == [BAKE_FILE, FROM_SOURCE]
    assert {"--set=fa2-wheel-cu128.args.BUILDER=own:1", "--set=fa2-wheel-cu128.args.MAX_JOBS=2"} < set(told)


def test_downloaded_wheels_go_into_a_directory_too(told: list[str], tmp_path: Path) -> None:
    """So that a machine that cannot reach their publisher gets them with --compiled."""
    assert main(["build", "fa2-cu128", "--wheels", str(tmp_path)]) == 0
    assert told[-2:] == [
        f"--allow=fs.write={tmp_path}",
        f"--set=fa2-wheel-cu128.output=type=local,dest={tmp_path}/fa2-wheel-cu128",
    ]


def test_a_failed_build_says_what_it_downloads_and_what_does_without(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a build that downloads nothing there is no such line."""
    monkeypatch.setattr(engine, "status", lambda *_, **__: 1)
    monkeypatch.setattr(images, "logs_of_failures", lambda _: [])
    with pytest.raises(
        CommandFailed, match=r"fa2-wheel-cu128 is downloaded from https://(.|\n)*--from-source"
    ) as failed:
        images.build(ROOT, OURS, pick(OURS, ["fa2-cu128"]), Sources())
    assert "--compiled DIR" in str(failed.value)
    with pytest.raises(CommandFailed) as failed:
        images.build(ROOT, OURS, pick(OURS, ["fa2-cu128"]), Sources(from_source=True))
    assert "downloaded" not in str(failed.value)


def test_images_without_compiled_kernels_have_no_wheels(told: list[str], tmp_path: Path) -> None:
    """Asking for them is a mistake, not a build of nothing."""
    assert main(["build", "sdpa-cpu", "--wheels", str(tmp_path)]) == 2
    assert told == []


def test_every_target_of_an_image_gets_the_base(told: list[str]) -> None:
    """Its wheels too: they are compiled on the Python that they will run on."""
    assert main(["build", "fa2-cu128-ada", "--base", "own:1"]) == 0
    for name in ("torch-cu128", "axolotl-cu128", "fa2-wheel-cu128-ada", "fa2-cu128-ada"):
        assert f"--set={name}.args.BASE=own:1" in told


def test_a_failed_target_names_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that failed since the build began; older failures and what went well are not of it."""
    records = [
        {"name": "main/docker (fa2-wheel)", "ref": "default/default/abc", "status": "Error", "created_at": DURING},
        {"name": "main/docker (torch)", "ref": "default/default/def", "status": "Completed", "created_at": DURING},
        {"name": "main/docker (image)", "ref": "default/default/ghi", "status": "Error", "created_at": BEFORE},
    ]
    listed = "".join(f"{json.dumps(record)}\n" for record in records)
    monkeypatch.setattr(engine, "capture", lambda *_, **__: listed)
    assert logs_of_failures(datetime(2026, 11, 22, 12, tzinfo=UTC)) == [
        "all of main/docker (fa2-wheel): docker buildx history logs abc"
    ]


def test_what_buildx_says_in_another_form_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are no JSON or lack a key are left out; a time without a zone is UTC, and one may have nanoseconds."""
    good = {"name": "wheel", "ref": "default/default/abc", "status": "Error", "created_at": DURING.removesuffix("Z")}
    lines = [
        "WARNING: no history for this builder",
        "[]",
        json.dumps({"name": "no time", "ref": "a/b/c", "status": "Error"}),
        json.dumps(good | {"created_at": None}),
        json.dumps(good | {"created_at": "yesterday"}),
        json.dumps(good | {"ref": None}),
        json.dumps(good),
    ]
    monkeypatch.setattr(engine, "capture", lambda *_, **__: "\n".join(lines))
    assert logs_of_failures(datetime(2026, 11, 22, 12, tzinfo=UTC)) == ["all of wheel: docker buildx history logs abc"]


def test_an_older_buildx_keeps_no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what it can without them."""

    def refuse(*_: object, **__: object) -> str:
        raise CommandFailed("unknown command: docker buildx history")

    monkeypatch.setattr(engine, "capture", refuse)
    assert logs_of_failures(datetime.now(UTC)) == []
