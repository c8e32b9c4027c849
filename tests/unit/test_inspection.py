"""What `nox -s inspect` concludes: which code runs on which GPU, and what is wrong with an image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from attn_matrix import ROOT
from attn_matrix.cli import main
from attn_matrix.commands import inspection, terminal
from attn_matrix.commands import inspection_rules as rules
from attn_matrix.commands.inspection_rules import CodeClaim, Conclusion
from attn_matrix.errors import CommandFailed
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.model import Image, Matrix
from attn_matrix.rendered import requirements
from attn_matrix.rendered.bake import OCI
from inside.facts import Files, Installed, Library, Load, Loads


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return read(ROOT / FILE)


def image(matrix: Matrix, name: str) -> Image:
    return next(each for each in matrix.images if each.id == name)


def verdicts(rows: Iterable[Conclusion]) -> dict[str, str]:
    return {row.subject: row.verdict for row in rows}


def reasons(rows: Iterable[Conclusion], verdict: str = "fail") -> list[str]:
    return [row.reason for row in rows if row.verdict == verdict]


# ---- GPU code ----


@pytest.mark.parametrize(
    ("target", "capability", "expected"),
    [
        ("sm_80", "8.0", True),
        ("sm_80", "8.9", True),
        ("sm_86", "8.9", True),
        ("sm_86", "8.0", False),
        ("sm_80", "9.0", False),
        ("sm_70", "7.5", True),
        ("sm_90a", "9.0", True),
        ("sm_100a", "10.3", False),
        ("sm_100f", "10.3", True),
        ("sm_100f", "12.0", False),
        ("sm_100", "12.0", False),
        ("sm_120", "12.0", True),
        ("compute_80", "12.0", True),
        ("compute_90", "8.9", False),
        ("compute_90a", "10.0", False),
        ("compute_90a", "9.0", True),
        ("compute_100f", "12.0", False),
        ("gfx942", "gfx942", True),
        ("gfx90a", "gfx942", False),
        ("sm_90", "gfx942", False),
    ],
)
def test_which_code_runs_where(target: str, capability: str, expected: bool) -> None:
    """NVIDIA's rules: a major version and what is newer in it; PTX on all that is newer; a and f only at home."""
    assert rules.covers(target, capability) is expected


def test_machine_code_is_chosen_before_ptx_and_the_newest_first() -> None:
    """As the driver chooses; the reason names what serves a GPU that is not in the list itself."""
    assert rules.server(["sm_75", "sm_80", "compute_80"], "8.6") == "sm_80"
    assert rules.server(["sm_80", "compute_86"], "8.9") == "sm_80"
    row = rules.coverage("GPU code", "a.so", ["compute_80", "sm_80", "sm_90a"], ["8.0", "8.9", "9.0", "12.0"])

    assert (row.verdict, row.reason) == ("pass", "sm_80 sm_90a compute_80 (8.9 by sm_80, 12.0 by compute_80)")


def test_a_gpu_without_code_fails_and_is_named() -> None:
    """Also where there is none at all."""
    row = rules.coverage("GPU code", "a.so", ["sm_80"], ["8.0", "9.0", "10.0"])
    nothing = rules.coverage("GPU code", "torch's own list", [], ["9.0"])

    assert (row.verdict, row.reason) == ("fail", "no code for 9.0, 10.0; it has sm_80")
    assert (nothing.verdict, nothing.reason) == ("fail", "no code for 9.0; it has nothing")


def library(path: str, *targets: str, of: str = "sageattention", error: str = "") -> Library:
    return Library(distribution=of, path=path, code=dict.fromkeys(targets, 1), error=error)


def test_all_libraries_of_a_kernel_package_count_together() -> None:
    """SageAttention has one for each architecture; each of torch's has to serve every GPU."""
    sage = [library("a.so", "sm_80"), library("b.so", "sm_90a")]
    torch = [library("libtorch_cuda.so", "sm_80", "sm_90", of="torch"), library("linalg.so", "sm_80", of="torch")]
    claimed = {"sageattention": CodeClaim(("8.0", "9.0")), "torch": CodeClaim(("8.0", "9.0"))}

    found = verdicts(rules.gpu_code([*sage, *torch], claimed))

    assert found == {"sageattention": "pass", "libtorch_cuda.so": "pass", "linalg.so": "fail"}


def test_what_we_compile_has_code_for_nothing_else() -> None:
    """A wheel for one architecture, compiled for all of them; from the package index it may be so."""
    libraries = [library("a.so", "sm_80", "sm_90")]

    ours = rules.gpu_code(libraries, {"sageattention": CodeClaim(("9.0",), exactly=True)})
    theirs = rules.gpu_code(libraries, {"sageattention": CodeClaim(("9.0",))})

    assert reasons(ours) == ["has code for no GPU that this image is for: sm_80"]
    assert reasons(theirs) == []


def test_no_code_is_a_failure_only_where_something_was_compiled() -> None:
    """flash-attn-4 has no compiled file; a CPU build of a kernel package has, and it cannot be read when cut off."""
    hopper = CodeClaim(("9.0",))
    claimed = {
        "flash-attn-4": hopper,
        "sageattention": hopper,
        "cut": hopper,
        "ours": CodeClaim(("9.0",), compiled=True),
    }
    rows = list(rules.gpu_code([library("a.so"), library("cut.so", of="cut", error="cut off")], claimed))

    failing = dict.fromkeys(["sageattention", "cut.so", "cut", "ours"], "fail")
    assert verdicts(rows) == {"flash-attn-4": "n/a", **failing}


def test_a_prebuilt_wheel_may_have_more_code_than_the_image_needs_but_not_less(matrix: Matrix) -> None:
    """FlashAttention 3's has Ampere's beside Hopper's; one without Hopper's, or without any, is another file."""
    claimed = {"flash-attn-3": rules.claims(matrix, image(matrix, "fa3-cu128"))["flash-attn-3"]}

    more = rules.gpu_code([library("_C.so", "sm_80", "sm_90a", of="flash-attn-3")], claimed)
    less = rules.gpu_code([library("_C.so", "sm_80", of="flash-attn-3")], claimed)
    none = rules.gpu_code([], claimed)

    assert verdicts(more) == {"flash-attn-3": "pass"}
    assert reasons(less) == ["no code for 9.0; it has sm_80"]
    assert reasons(none) == ["holds no compiled file, and its wheel is for GPUs"]


@pytest.mark.parametrize(
    ("labels", "version"),
    [
        ({"dev.axolotl-attn.prebuilt": "flash-attn@sha256:1"}, "2.8.3+cu128torch2.10"),
        ({"dev.axolotl-attn.prebuilt": ""}, "2.8.3.post2"),
        (None, "2.8.3+cu128torch2.10"),
    ],
)
def test_an_image_is_held_to_what_it_says_it_was_built_from(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str] | None, version: str
) -> None:
    """One from source holds another version than one with the prebuilt wheel."""
    monkeypatch.setattr(engine, "capture", lambda *_, **__: json.dumps([{"Config": {"Labels": labels}}]))
    fa2 = image(matrix, "fa2-cu128")
    assert inspection.as_built(matrix, fa2).pinned_packages(fa2)["flash-attn"] == version


def test_claims_are_the_architectures_of_images_yaml(matrix: Matrix) -> None:
    """torch for the image's GPUs, each package for its backend's."""
    claimed = rules.claims(matrix, image(matrix, "xformers-cu128"))
    narrowed = rules.claims(matrix, image(matrix, "fa2-cu128-hopper"))

    assert claimed["torch"].capabilities == claimed["xformers"].capabilities
    assert {"7.5", "9.0", "12.0"} <= set(claimed["xformers"].capabilities)
    assert not claimed["xformers"].exactly
    assert narrowed["flash-attn"] == CodeClaim(("9.0",), compiled=True, exactly=True)
    assert not rules.claims(matrix, image(matrix, "fa2-cu128"))["flash-attn"].exactly
    assert rules.claims(matrix.from_source(), image(matrix, "fa2-cu128"))["flash-attn"].exactly
    assert rules.claims(matrix, image(matrix, "sdpa-cpu")) == {"torch": CodeClaim(())}


# ---- imports and versions ----


def test_an_undefined_symbol_is_told_in_the_linkers_words() -> None:
    """On one line."""
    bad = Load(distribution="x", name="x/_C.so", error="OSError: x/_C.so:\n undefined symbol: _ZN2at5Error")
    good = Load(distribution="torch", name="torch", note="with a stand-in")
    rows = list(rules.imports(Loads(loads=(bad, good), torch="2.10.0", architectures=())))

    assert rows[0] == Conclusion("import", "x/_C.so", "fail", "OSError: x/_C.so: undefined symbol: _ZN2at5Error")
    assert rows[1] == Conclusion("import", "torch", "pass", "imports (with a stand-in)")


LOCK = """\
# Generated
axolotl[flash]==0.16.1 \\
    --hash=sha256:aa
torch==2.10.0 \\
    --hash=sha256:00
typing_extensions==4.16.0 ; python_version < "3.14"
wheel @ https://example.invalid/wheel-1.0.whl
"""


def test_a_lock_is_read() -> None:
    """Extras, markers, hashes and addresses; names as everybody writes them."""
    assert requirements.versions(LOCK) == {
        "axolotl": "0.16.1",
        "torch": "2.10.0",
        "typing-extensions": "4.16.0",
        "wheel": "https://example.invalid/wheel-1.0.whl",
    }


def test_versions_are_those_of_the_lock() -> None:
    """Another version, one that is in no lock, a pinned one that is missing: a row each."""
    installed = {"torch": "2.10.0", "typing-extensions": "4.15.0", "pip": "26.0", "wheel": "1.0"}
    rows = list(rules.versions(installed, requirements.versions(LOCK), {"torch": "2.10.0", "xformers": "0.0.35"}))

    assert verdicts(rows) == {"typing-extensions": "fail", "unknown": "fail", "xformers": "fail", "versions": "pass"}
    assert reasons(rows) == [
        "4.15.0 is installed, the lock has 4.16.0",
        "0.0.35 is pinned, and not installed",
        "pip 26.0",
    ]


def test_an_image_without_axolotl_is_without_it() -> None:
    """The lock knows it, and a `-base` image must not hold it."""
    installed = {"torch": "2.10.0", "axolotl": "0.16.1"}

    assert reasons(rules.versions(installed, requirements.versions(LOCK), {"torch": "2.10.0"})) == [
        "is installed, and this image is one without it"
    ]


def facts(**changed: object) -> Installed:
    whole = Installed(
        versions={}, broken=(), unrecorded=(), contested=(), uncompiled=(), sources=9, stub=(), kernels={"sm_90a": 3}
    )
    return Installed(**{**vars(whole), **changed})


def test_files_are_as_installed() -> None:
    """Each kind of difference has its row, which shows the first few."""
    assert set(verdicts(rules.recorded(facts())).values()) == {"pass"}
    found = facts(broken=("a.so: missing",), unrecorded=tuple("abcdef"))

    rows = list(rules.recorded(found))

    assert verdicts(rows) == {"as installed": "fail", "strays": "fail", "contested": "pass", "bytecode": "pass"}
    assert reasons(rows) == ["a.so: missing", "a; b; c; d and 2 more"]


def test_flash_attention_4_has_its_files_and_kernels(matrix: Matrix) -> None:
    """Kernels for each architecture that the build compiles for, none for another, and no stub."""
    hopper = image(matrix, "fa4-cu128-hopper")
    assert verdicts(rules.flash_attention_4(matrix, hopper, facts())) == {"flash_attn.cute": "pass", "sm_90": "pass"}
    wrong = facts(stub=("is a stub",), kernels={"sm_100a": 2, "none": 1})

    rows = list(rules.flash_attention_4(matrix, hopper, wrong))

    assert verdicts(rows) == {"flash_attn.cute": "fail", "sm_90": "fail", "others": "fail"}
    assert reasons(rows) == ["is a stub", "0 kernels", "2 kernels for sm_100a, 1 kernels for none"]
    cpu = image(matrix, "sdpa-cpu")
    assert verdicts(rules.flash_attention_4(matrix, cpu, facts())) == {"flash_attn.cute": "n/a"}


def test_an_image_has_the_kernels_of_a_start_for_each_of_its_gpus(matrix: Matrix) -> None:
    """Where Triton compiles them; and for no other GPU."""
    hopper = image(matrix, "fa4-cu128-hopper")
    assert verdicts(rules.start_kernels(matrix, hopper, facts(start_kernels={"sm_90a": 57}))) == {"sm_90": "pass"}

    rows = list(rules.start_kernels(matrix, hopper, facts(start_kernels={"sm_80": 57})))

    assert verdicts(rows) == {"sm_90": "fail", "others": "fail"}
    assert reasons(rows) == ["0 kernels", "57 kernels for sm_80"]
    cpu = image(matrix, "flex-cpu")
    assert verdicts(rules.start_kernels(matrix, cpu, facts())) == {"Triton": "n/a"}


# ---- hygiene ----


def tree(**changed: tuple[str, ...]) -> Files:
    whole = Files(count=9, writable=(), privileged=("/usr/bin/su",), left=(), settings=(), secrets=())
    return Files(**{**vars(whole), **changed})


def test_a_clean_file_system_passes() -> None:
    """Debian's own set-user-id programs are known."""
    assert set(verdicts(rules.hygiene(tree(), {})).values()) == {"pass"}


@pytest.mark.parametrize(
    ("kind", "path", "subject"),
    [
        ("writable", "/opt/x", "world-writable"),
        ("privileged", "/usr/bin/sudo", "set-user-id"),
        ("left", "/root/.cache/pip/x", "left behind"),
        ("settings", "/etc/pip.conf", "index settings"),
        ("secrets", "/run/secrets/ca", "secrets"),
    ],
)
def test_what_an_image_should_not_hold_fails(kind: str, path: str, subject: str) -> None:
    """Unless the base image has the very same file already."""
    found = tree(**{kind: (path,)})

    assert [row.subject for row in rules.hygiene(found, {}) if row.verdict == "fail"] == [subject]
    assert rules.findings(found) == [path]
    assert verdicts(rules.hygiene(found, {path: "debian"}))[subject] == "n/a"


def test_what_the_base_has_hides_nothing_of_our_own() -> None:
    """One of two secrets is ours."""
    found = tree(secrets=("/etc/a.crt: 2 certificates", "/run/secrets/ca"))

    assert reasons(rules.hygiene(found, {"/etc/a.crt": "debian"})) == ["/run/secrets/ca"]


@pytest.mark.parametrize(("user", "verdict"), [("1000:0", "pass"), ("attn", "pass"), ("", "fail"), ("0:0", "fail")])
def test_root_is_refused(user: str, verdict: str) -> None:
    """Also the one that nobody set."""
    assert rules.user(user).verdict == verdict


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("RUN |2 LOCK=a.txt HF_TOKEN=hf_x /bin/sh -c pip install", "HF_TOKEN"),
        ("RUN |1 PIP_INDEX_URL=https://site /bin/sh -c pip install", "PIP_INDEX_URL"),
        ("ENV HTTPS_PROXY=http://proxy:3128", "HTTPS_PROXY"),
        ("ARG GITHUB_TOKEN=ghp_x", "GITHUB_TOKEN"),
        ("RUN /bin/sh -c git clone https://me:word@host/x", "an address with a password in step 0"),
    ],
)
def test_a_secret_in_the_history_fails(step: str, told: str) -> None:
    """Build arguments stay in an image for ever; no value is repeated."""
    rows = list(rules.history([step], []))

    assert [row.verdict for row in rows] == ["fail", "pass"]
    assert rows[0].reason == told


def test_a_script_that_sets_variables_of_its_own_is_no_secret() -> None:
    """The script of a RUN says PIP_CERT=$bundle; that is no build argument."""
    steps = [
        "RUN |1 LOCK=a.txt /bin/sh -c export PIP_CERT=$bundle SECRET=$(cat /run/secrets/x)",
        "COPY a b",
        "ARG TOKEN",
    ]

    assert verdicts(rules.history(steps, ["PATH=/bin", "HOME=/x"])) == {"build arguments": "pass", "variables": "pass"}
    assert verdicts(rules.history([], ["UV_INDEX_URL=x"]))["variables"] == "fail"


@pytest.mark.parametrize(
    ("entrypoint", "said", "verdict"), [("usage", "usage", "pass"), ("usage", "--help", "fail"), ("", "", "fail")]
)
def test_a_name_that_starts_something_else_fails(entrypoint: str, said: str, verdict: str) -> None:
    """Two programs that both say nothing prove nothing."""
    assert rules.named("attn-run", entrypoint, said).verdict == verdict


def test_the_entrypoint_and_its_name_are_both_asked(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """One as the image starts, the other in its place."""
    asked: list[Sequence[str]] = []

    def answer(command: Sequence[str], **_: object) -> str:
        asked.append(command)
        return " ".join(command[-3:])

    monkeypatch.setattr(engine, "capture", answer)
    inside = inspection.Inside(ROOT, matrix, image(matrix, "sdpa-cpu-base"))

    (row,) = inspection.start(inside)

    assert [command[-3:] for command in asked] == [
        ["--read-only", "axolotl-attn:sdpa-cpu-base", "--help"],
        ["--entrypoint=attn-run", "axolotl-attn:sdpa-cpu-base", "--help"],
    ]
    assert row.verdict == "fail"


# ---- the command ----


def test_a_program_that_fails_in_the_image_is_a_row(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check runs, whatever became of the one before."""

    def refuse(command: Sequence[str], **_: object) -> str:
        raise CommandFailed("exit code 139 from docker run", "Traceback\nSegmentation fault")

    monkeypatch.setattr(engine, "capture", refuse)
    found = inspection.inspect(ROOT, matrix, image(matrix, "fa4-cu128-base"))

    assert [row.check for row in found.rows] == list(inspection.CHECKS)
    assert {(row.verdict, row.reason) for row in found.rows} == {("fail", "Segmentation fault")}
    assert found.failures == len(found.rows)


def test_an_image_asked_for_by_its_id_has_to_be_there(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A glob takes what is there, and says what is not; nothing at all is an error."""
    images = [image(matrix, "sdpa-cpu"), image(matrix, "flex-cpu")]
    monkeypatch.setattr(engine, "identity", lambda tag: "sha256:x" if tag.endswith("sdpa-cpu") else None)

    assert inspection.present(matrix, images, ["*-cpu"]) == images[:1]
    assert "not looked at: flex-cpu" in capsys.readouterr().err
    with pytest.raises(CommandFailed, match="no image of flex-cpu"):
        inspection.present(matrix, images, ["sdpa-cpu", "flex-cpu"])
    monkeypatch.setattr(engine, "identity", lambda tag: None)
    with pytest.raises(CommandFailed, match="no image of sdpa-cpu, flex-cpu"):
        inspection.present(matrix, images, ["*-cpu"])


def test_only_what_is_the_same_file_in_the_base_is_the_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """By checksum; without the base in the engine, nothing is."""
    sums = {"ours": {"/a": "1", "/b": "2", "/c": "3"}, "sha256:d": {"/a": "1", "/b": "9"}}
    monkeypatch.setattr(inspection, "checksums", lambda reference, paths: sums[reference])
    monkeypatch.setattr(engine, "identity", lambda reference: reference if reference == "sha256:d" else None)
    labels = {f"{OCI}.base.name": "debian", f"{OCI}.base.digest": "sha256:d"}

    assert inspection.of_base("ours", labels, ["/a", "/b", "/c"]) == {"/a": "debian"}
    assert inspection.of_base("ours", {}, ["/a"]) == {}


def test_the_table_and_the_document_say_the_same() -> None:
    """One line for each row; a reader of the JSON sees at once whether all is well."""
    rows = (Conclusion("import", "torch", "pass", "imports"), Conclusion("lock", "pip", "fail", "unknown"))
    found = inspection.Inspected("sdpa-cpu", "axolotl-attn:sdpa-cpu", "sha256:1", rows)

    text = terminal.plain(*inspection.tables(found)).splitlines()
    document = json.loads(inspection.document([found]))

    assert text[0] == "sdpa-cpu: 1 of 2 pass, 1 fail"
    assert text[1:3] == ["  ok    import  torch  imports", "  FAIL  lock    pip    unknown"]
    assert (document["schema"], document["passed"]) == (1, False)
    assert document["images"][0]["rows"][1]["reason"] == "unknown"


def test_a_relative_root_is_mounted_by_its_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker takes a mount's source that is no absolute path for the name of a volume."""
    asked: list[Sequence[str]] = []

    def refuse(command: Sequence[str], **_: object) -> str:
        asked.append(command)
        raise CommandFailed("exit code 1", "no")

    monkeypatch.setattr(engine, "require", lambda: None)
    monkeypatch.setattr(engine, "identity", lambda _tag: "sha256:1")
    monkeypatch.setattr(engine, "capture", refuse)
    monkeypatch.chdir(ROOT / "docker")
    assert main(["--root", "..", "inspect", "sdpa-cpu", "--json"]) == 1
    mounts = [word for command in asked for word in command if word.startswith("--volume=")]
    assert set(mounts) == {f"--volume={ROOT / 'docker/inside'}:/run/inspect/inside:ro"}


def test_the_container_gets_nothing_but_the_programs() -> None:
    """No network, nothing to write to, our programs read-only, and Python that looks nowhere else."""
    words = inspection.command(Path("/root"), "tag", "tree", (), inspection.AS_ROOT)

    assert {"--network=none", "--read-only", "--cap-drop=ALL"} < set(words)
    assert "--volume=/root/docker/inside:/run/inspect/inside:ro" in words
    assert words[-5:] == ["--entrypoint=/opt/venv/bin/python", "tag", "-P", "-m", "inside.tree"]
