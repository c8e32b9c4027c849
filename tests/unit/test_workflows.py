"""The workflows: what a linter does not know of this repository, and what their scripts do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from attn_matrix import ROOT

GITHUB = ROOT / ".github"
FILES = sorted([*GITHUB.glob("workflows/*.yml"), *GITHUB.glob("actions/*/action.yml")])
TEXTS = {path.relative_to(GITHUB).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
# BaseLoader: YAML 1.1 takes the key `on` for a truth value.
PARSED = {name: yaml.load(text, Loader=yaml.BaseLoader) for name, text in TEXTS.items()}
WORKFLOWS = {name: value for name, value in PARSED.items() if name.startswith("workflows/")}
JOBS = {(name, job): value for name, workflow in WORKFLOWS.items() for job, value in workflow["jobs"].items()}
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
each_file = pytest.mark.parametrize("name", TEXTS)
each_workflow = pytest.mark.parametrize("name", WORKFLOWS)
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=[f"{name}:{job}" for name, job in JOBS])


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step, with a name that says where it is."""
    for (name, job), value in JOBS.items():
        yield from ((f"{name}:{job}:{step['name']}", step) for step in value.get("steps", []))
    for name in PARSED.keys() - WORKFLOWS.keys():
        yield from ((f"{name}:{step['name']}", step) for step in PARSED[name]["runs"]["steps"])


SCRIPTS = {name: str(step["run"]) for name, step in steps() if "run" in step}
each_script = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


@each_file
def test_an_action_is_pinned_by_commit_and_says_its_version(name: str) -> None:
    """A tag can be moved to other code; ours come with the checkout and need none."""
    used = re.findall(r"uses: (\S.*)", TEXTS[name])
    others = [value for value in used if not value.startswith("./.github/")]
    assert [value for value in others if not PINNED.fullmatch(value)] == []


def test_one_version_of_each_action() -> None:
    """An update that forgot a place shows here."""
    pairs: dict[str, set[str]] = {}
    for value in re.findall(r"uses: (\S+@.*)", "\n".join(TEXTS.values())):
        pairs.setdefault(value.split("@")[0], set()).add(value)
    assert pairs
    assert {action: versions for action, versions in pairs.items() if len(versions) > 1} == {}


@each_file
def test_what_is_our_own_exists(name: str) -> None:
    """A local action or workflow is a file here."""
    for value in re.findall(r"uses: \./(\S+)", TEXTS[name]):
        path = ROOT / value
        assert path.is_file() or (path / "action.yml").is_file(), value


@each_workflow
def test_nothing_is_permitted_at_the_top(name: str) -> None:
    """Each job says what it needs, and `permissions: {}` where that is nothing."""
    assert WORKFLOWS[name]["permissions"] == {}
    assert [job for job, value in WORKFLOWS[name]["jobs"].items() if "permissions" not in value] == []


def test_only_who_must_may_write() -> None:
    """Packages, and a name to sign them with: what bakes; contents and pull requests: what proposes; nothing else."""
    rights = {job: value["permissions"] for job, value in JOBS.items()}
    writers = {job: {right for right, level in given.items() if level == "write"} for job, given in rights.items()}
    callers = {job for job, value in JOBS.items() if value.get("uses") == "./.github/workflows/bake.yml"}
    bakers = {("workflows/bake.yml", "bake"), *callers}
    proposer = {("workflows/pins.yml", "propose"): {"actions", "contents", "pull-requests"}}
    assert {job: given for job, given in writers.items() if given} == {
        job: {"packages", "id-token"} for job in bakers
    } | proposer


@each_job
def test_a_job_ends(job: dict[str, Any]) -> None:
    """GitHub's own limit is six hours, and days on our machines. A job that calls a workflow has that one's limits."""
    assert "uses" in job or 1 <= int(job["timeout-minutes"]) < 360


@each_workflow
def test_a_job_waits_for_jobs_that_exist(name: str) -> None:
    """A misspelt one is found by GitHub alone, and then nothing runs."""
    jobs = WORKFLOWS[name]["jobs"]
    assert {need for value in jobs.values() for need in _needs(value)} <= set(jobs)


def test_the_required_job_waits_for_every_other() -> None:
    """It is the only check that the main branch requires, so what it leaves out is not required; and it always runs."""
    jobs = WORKFLOWS["workflows/ci.yml"]["jobs"]
    assert set(_needs(jobs["required"])) == set(jobs) - {"required"}
    assert jobs["required"]["if"] == "always()"


def _needs(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else needs


@pytest.mark.parametrize(
    ("results", "passes"),
    [
        (["success", "success"], True),
        (["success", "failure"], False),
        (["cancelled", "success"], False),
        (["skipped", "success"], False),
        ([], False),
    ],
)
def test_the_required_job_passes_only_if_each_succeeded(results: list[str], passes: bool) -> None:
    """Skipped and cancelled are no success."""
    needs = {f"job{number}": {"result": result, "outputs": {}} for number, result in enumerate(results)}
    script = SCRIPTS["workflows/ci.yml:required:Check that every job succeeded"]
    done = bash(script, NEEDS=json.dumps(needs))
    assert (done.returncode == 0) == passes, done.stderr


@each_script
def test_a_script_is_bash_and_holds_no_expression(script: str) -> None:
    """GitHub pastes an expression into the text of a script: what comes from outside goes in as a variable."""
    assert "${{" not in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_session_that_a_workflow_calls_exists() -> None:
    """In the noxfile."""
    lines = "\n".join(script.replace(" -- ", "\n") for script in SCRIPTS.values())
    called = {name for names in re.findall(r"nox -s ([\w -]+)", lines) for name in names.split()}
    assert called >= {"lint", "tests", "plan", "run", "pins", "lock", "render", "inspect"}
    assert called <= sessions()


def test_every_checkout_forgets_its_token() -> None:
    """Else it lies in .git/config, for every later step and for an artifact by mistake."""
    kept = [name for name, step in steps() if "actions/checkout@" in step.get("uses", "")]
    assert kept
    careless = [name for name, step in steps() if name in kept and step["with"].get("persist-credentials") != "false"]
    assert careless == []


def test_nothing_from_outside_starts_a_workflow_with_rights() -> None:
    """A pull request starts ci.yml alone, which can write nothing; no workflow runs for one with our own rights."""
    events = {name: set(workflow["on"]) for name, workflow in WORKFLOWS.items()}
    assert {name for name, on in events.items() if "pull_request" in on} == {"workflows/ci.yml"}
    assert [name for name, on in events.items() if on & {"pull_request_target", "workflow_run", "issue_comment"}] == []
    ours = {name for (name, _), job in JOBS.items() if "self-hosted" in job.get("runs-on", "")}
    assert ours == {"workflows/gpu.yml"}
    assert events["workflows/gpu.yml"] == {"workflow_dispatch"}


def test_no_secret_is_a_build_argument() -> None:
    """The provenance of an image tells its build arguments: docker/bake.json has them all, from images.yaml."""
    assert "type=provenance,mode=max" in SCRIPTS["workflows/bake.yml:bake:Build"]
    assert not re.search(r"\.args\b|--build-arg", "".join(SCRIPTS.values()))
    assert [name for name, text in TEXTS.items() if "secrets" in text] == []
    assert sum(text.count("github.token") for text in TEXTS.values()) == 3
    tokens = [name for name, step in steps() if "github.token" in json.dumps(step)]
    assert sorted(tokens) == [
        "workflows/bake.yml:bake:Log in to the registry",
        "workflows/gpu.yml:check:Log in to the registry",
        "workflows/pins.yml:propose:Propose it",
    ]


def test_the_order_of_a_build_is_inspect_sign_then_tag() -> None:
    """A tag names only what was inspected and signed: until then an image is pushed by its digest alone."""
    names = [step["name"] for step in JOBS["workflows/bake.yml", "bake"]["steps"]]
    assert (
        names.index("Build") < names.index("Inspect what was pushed") < names.index("Sign it") < names.index("Tag it")
    )
    assert SCRIPTS["workflows/bake.yml:bake:Sign it"] == '.github/sign "$REPOSITORY@$DIGEST"'
    assert "type=sbom" in SCRIPTS["workflows/bake.yml:bake:Build"]
    assert "push-by-digest=true" in SCRIPTS["workflows/bake.yml:bake:Build"]
    tagging = [name for name, script in SCRIPTS.items() if "imagetools create" in script]
    assert tagging == ["workflows/bake.yml:bake:Tag it"]


def test_shared_targets_are_built_before_what_uses_them() -> None:
    """Each that another one links to, once, and those that need others second."""
    linked = {"torch": {}, "wheel": {"contexts": {"torch": "target:torch"}}}
    image = {"contexts": {"torch": "target:torch", "wheel": "target:wheel", "wheelhouse": "/wheels"}}
    stages = jq("stages.jq", {"target": {**linked, "a": image, "b": image, "alone": {}}})
    assert json.loads(stages) == {"first": ["torch"], "second": ["wheel"]}
    assert json.loads(jq("stages.jq", {"target": {"alone": {}}})) == {"first": [], "second": []}


def test_every_target_of_the_bake_file_is_an_image_or_shared() -> None:
    """Else images.yml would build it nowhere, or never from the cache."""
    bake = json.loads((ROOT / "docker/bake.json").read_text(encoding="utf-8"))
    stages = json.loads(jq("stages.jq", bake))
    images = set(bake["group"]["default"]["targets"])
    assert {*stages["first"], *stages["second"]} | images == set(bake["target"])


def test_the_pull_request_names_what_is_due() -> None:
    """Nobody looks at a review date otherwise."""
    due = {"combination": "fa3 x rocm", "reason": "Hopper only", "source": "https://example.org", "overdue": True}
    text = jq("pins.jq", {"exclusions": [due, due | {"combination": "fa9 x cpu", "overdue": False}]}, "--raw-output")
    assert "- fa3 x rocm: Hopper only (https://example.org)" in text
    assert "fa9" not in text
    assert "No exclusion is due" in jq("pins.jq", {"exclusions": []}, "--raw-output")


def sessions() -> set[str]:
    """The names that `nox -l` lists."""
    command = [sys.executable, "-m", "nox", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^[*-] (\S+) ->", listed, re.MULTILINE))


def bash(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as GitHub does; skip where there is no jq, which GitHub's machines have."""
    needs_jq()
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    env = {"PATH": str(Path(shutil.which("jq") or "").parent) + ":/usr/bin:/bin", **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def jq(program: str, value: object, *switches: str) -> str:
    needs_jq()
    command = ["jq", *switches, "--from-file", str(GITHUB / program)]
    return subprocess.run(command, input=json.dumps(value), capture_output=True, text=True, check=True).stdout


def needs_jq() -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
