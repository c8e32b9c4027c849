"""docker/kubernetes: valid for three versions, ends, has no right too many, and agrees with the code."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
from attn_matrix import ROOT
from attn_matrix.matrix.load import FILE
from attn_matrix.matrix.load import read as read_matrix
from attn_matrix.rendered import kubernetes

from entrypoint.judge.finding import Code
from tests.kubernetes.broken import BROKEN
from tests.kubernetes.manifests import (
    COMPONENTS,
    FOLDER,
    KUSTOMIZED,
    OF_THE_CHECK,
    Manifest,
    built,
    everything,
    jobs,
    only,
    overlay,
    pods,
    read,
)
from tests.kubernetes.rules import mistakes, restricted

MATRIX = read_matrix(ROOT / FILE)
README = (FOLDER / "README.md").read_text(encoding="utf-8")
# The oldest version that Kubernetes still maintains, the one that these manifests were tried on, and the newest.
VERSIONS = ("1.34", "1.36", "1.37")
# Of these the schemas are their projects'; the Jobs in them are looked at as Jobs.
FOREIGN = {"JobSet", "ClusterTrainingRuntime", "TrainJob", "NodeReadinessRule"}
OURS = MATRIX.project.name
base = cache(lambda: built(FOLDER / "base"))
two_nodes = cache(lambda: built(FOLDER / "examples/two-nodes"))
whole = cache(everything)


def native(documents: list[Manifest]) -> list[Manifest]:
    """The documents that Kubernetes itself has a schema for, and the Jobs within the others as documents."""
    inner = [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, "spec": job}
        for document in documents
        if document["kind"] in FOREIGN
        for job in jobs(document)
    ]
    return [document for document in documents if document["kind"] not in FOREIGN] + inner


# ---- valid ----


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema(version: str) -> None:
    """Strictly: an unknown field is an error."""
    documents = native(whole())
    assert {document["kind"] for document in documents} >= {"Job", "CronJob", "DaemonSet", "Service", "ClusterRole"}
    for document in documents:
        # It takes the newest schema that it has in place of one that it has not, and says which.
        assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_can_be_added_alone(tmp_path: Path, name: str) -> None:
    """To the base that it is for, and it changes it."""
    for_what = "node-check" if name in OF_THE_CHECK else "base"
    documents = built(overlay(tmp_path, for_what, [name]))
    for document in documents:
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)
        assert mistakes(document) == []
    assert documents != built(FOLDER / for_what)


def test_the_components_go_together(tmp_path: Path) -> None:
    """All that are for the Job, but for the two places of one cache."""
    names = [name for name in COMPONENTS if name not in {*OF_THE_CHECK, "cache-emptydir"}]
    job = only(built(overlay(tmp_path, "base", names)), "Job")
    kubernetes_validate.validate(job, VERSIONS[0], strict=True)
    assert mistakes(job) == []
    assert restricted(job["spec"]["template"]["spec"]) == []


def test_no_manifest_has_what_a_server_refuses() -> None:
    assert {document["metadata"]["name"]: mistakes(document) for document in whole() if mistakes(document)} == {}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_the_schema_lets_through_is_found(fault: str) -> None:
    """Each fits the newest schema, which is why there are rules of our own."""
    job = copy.deepcopy(only(base(), "Job"))
    BROKEN[fault](job["spec"])

    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    assert mistakes(job)


def test_the_schema_finds_an_unknown_field() -> None:
    """So that `strict` is what it says."""
    job = copy.deepcopy(only(base(), "Job"))
    job["spec"]["podFailurePolicies"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


# ---- the policy ----


def test_a_job_ends_whatever_the_code() -> None:
    """Ignored failures are not counted, so a disruption alone is ignored; what no node mends fails at once."""
    found = [job for document in whole() for job in jobs(document) if "podFailurePolicy" in job]
    assert len(found) == 4
    for job in found:
        rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
        assert rules.keys() == {"FailJob", "Ignore"}
        assert rules["FailJob"]["onExitCodes"]["values"] == [Code.CONFIG.value, Code.WRONG.value]
        assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert "onExitCodes" not in rules["Ignore"]
        assert 0 < job["backoffLimit"] < 10


def test_the_node_check_ends() -> None:
    """A pod is never run again, a bad node's pod ends no other node's, and what found no free node is given up."""
    spec = only(built(FOLDER / "node-check"), "CronJob")["spec"]
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimitPerIndex"] == 0
    assert job["activeDeadlineSeconds"] < 600
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("*/10 * * * *", "Forbid")


def test_the_readme_says_what_becomes_of_each_code() -> None:
    """The table of docker/kubernetes/README.md, of every code that a start can end with."""
    rows = re.findall(r"^\| (\d+) ([A-Z_]+) \| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert {name: int(number) for number, name, *_ in rows} == {code.name: code.value for code in Code}
    job = {name for _, name, on_job, _ in rows if on_job.strip().startswith("fails at once")}
    node = {name for _, name, _, on_node in rows if on_node.strip() == "True: taint"}
    assert job == {code.name for code in kubernetes.NEVER_AGAIN}
    assert node == {code.name for code in kubernetes.OF_THE_NODE}


# ---- what belongs together ----


@pytest.mark.parametrize(("documents", "nodes"), [(base, 1), (two_nodes, 2)], ids=["base", "two nodes"])
def test_the_ranks_find_each_other(documents: Callable[[], list[Manifest]], nodes: int) -> None:
    """As many as there are pods, at the name and port that the Service gives the first."""
    job, service = only(documents(), "Job"), only(documents(), "Service")
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    arguments = dict(word.partition("=")[::2] for word in container["args"])
    (port,) = service["spec"]["ports"]

    assert (job["spec"]["completions"], job["spec"]["parallelism"], variables["NODES"]) == (nodes, nodes, str(nodes))
    assert arguments["--nnodes"] == "$(NODES)"
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert arguments["--rdzv-endpoint"] == f"{first}:{port['port']}"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)


def test_nothing_of_ours_starts_past_the_check() -> None:
    """No `command:` takes the place of the entrypoint, not even one that a TrainJob gives."""
    containers = [each for document in whole() for pod in pods(document) for each in pod["containers"]]
    own = [each for each in containers if each["image"].rpartition("/")[2].startswith(f"{OURS}:")]
    assert len(own) >= 5
    assert [each["name"] for each in own if each.get("command", ["attn-run"])[0] != "attn-run"] == []
    assert "command" not in only(read("examples/trainer.yaml"), "TrainJob")["spec"]["trainer"]


def test_every_image_is_one_of_the_matrix() -> None:
    """By its tag; the registry is the operator's."""
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*") if path.is_file()]
    tags = {tag for text in texts for tag in re.findall(rf"{OURS}:([a-z0-9-]+)", text)}
    assert tags <= {image.id for image in MATRIX.images}
    assert kubernetes.IMAGE in tags
    (values,) = read("nvsentinel/values.yaml")
    (check,) = values["preflight"]["initContainers"]
    assert check["image"] == {"repository": OURS, "tag": f"{kubernetes.IMAGE}-base"}


def test_a_verdict_goes_from_the_check_to_the_taint() -> None:
    """One folder of the node, one file in it, one condition, one taint, which the check itself tolerates."""
    check = next(pods(only(built(FOLDER / "node-check"), "CronJob")))
    condition = next(pods(only(built(FOLDER / "node-condition"), "DaemonSet")))
    plugin = json.loads((FOLDER / "node-condition/attention.json").read_text(encoding="utf-8"))
    (rule,) = plugin["rules"]
    taint = only(read("node-taint/rule.yaml"), "NodeReadinessRule")["spec"]

    folders = {v["hostPath"]["path"] for pod in (check, condition) for v in pod["volumes"] if "hostPath" in v}
    mounts = {m["mountPath"] for pod in (check, condition) for m in pod["containers"][0]["volumeMounts"]}
    assert folders == {kubernetes.ON_NODE}
    assert rule["args"] == [check["containers"][0]["args"][-1]] == ["/verdict/verdict"]
    assert {"/verdict", str(Path(rule["path"]).parent)} <= mounts
    assert (
        f"--config.custom-plugin-monitor={Path(rule['path']).parent}/attention.json"
        in condition["containers"][0]["command"]
    )
    assert rule["condition"] == plugin["conditions"][0]["type"] == taint["conditions"][0]["type"]
    assert {"key": taint["taint"]["key"], "operator": "Exists", "effect": taint["taint"]["effect"]} in check[
        "tolerations"
    ]


# ---- rights ----


def test_the_restricted_standard() -> None:
    """The component reaches it; without it the Job does not, so that this test can fail."""
    assert restricted(next(pods(only(two_nodes(), "Job")))) == []
    assert restricted(next(pods(only(base(), "Job"))))
    assert "volume verdict" in restricted(next(pods(only(built(FOLDER / "node-check"), "CronJob"))))


def test_only_the_condition_writer_has_rights() -> None:
    """And no more than it needs: a training pod and a check get not even a token."""
    roles = [document for document in whole() if document["kind"].endswith("Role")]
    (subject,) = only(whole(), "ClusterRoleBinding")["subjects"]
    rights = {
        (r, verb) for role in roles for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]
    }
    assert {right for right in rights if right[0] != "events"} == {("nodes", "get"), ("nodes/status", "patch")}
    for document in whole():
        for pod in pods(document):
            if pod.get("serviceAccountName") != subject["name"]:
                assert pod["automountServiceAccountToken"] is False, document["metadata"]


def test_what_sees_a_nodes_files_is_root_without_capabilities() -> None:
    """It may write to that folder, which is root's, and to nothing else."""
    for name in ("node-check", "node-condition"):
        for document in built(FOLDER / name):
            for pod in pods(document):
                (own,) = [each["securityContext"] for each in pod["containers"]]
                assert own["readOnlyRootFilesystem"] is True
                assert own["allowPrivilegeEscalation"] is False
                assert own["capabilities"] == {"drop": ["ALL"]}


def test_hostpath_is_in_the_checks_namespace_alone() -> None:
    """The only one that allows it."""
    documents = [document for name in KUSTOMIZED for document in built(FOLDER / name)]
    users = {
        document["metadata"].get("namespace")
        for document in documents
        for pod in pods(document)
        if any("hostPath" in volume for volume in pod["volumes"])
    }
    namespace = only(built(FOLDER / "node-check"), "Namespace")["metadata"]
    assert users == {namespace["name"]}
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


# ---- the plugin of node-problem-detector ----

STATUS = {0: "False", 1: "True", 2: "Unknown"}


def plugin(verdict: Path) -> tuple[str, str]:
    """The condition's status, and its message."""
    script = str(FOLDER / "node-condition/attention.sh")
    done = subprocess.run(["sh", script, str(verdict)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return STATUS[done.returncode], done.stdout.strip()


@pytest.mark.parametrize("code", Code, ids=lambda code: str(code.name))
def test_a_verdict_becomes_a_status(tmp_path: Path, code: Code) -> None:
    """What says something of the node is a problem of it; what says nothing is Unknown, and never a pass."""
    file = tmp_path / "verdict"
    line = f"FAIL {code.value} fa4 crashed with SIGSEGV in 'correctness' $(touch {tmp_path}/ran) *."
    file.write_text(f"{line}\n")
    expected = "False" if code is Code.PASS else "True" if code in kubernetes.OF_THE_NODE else "Unknown"
    assert plugin(file) == (expected, line)
    assert [path.name for path in tmp_path.iterdir()] == ["verdict"]


@pytest.mark.parametrize("text", [None, "", "\n", "PASS\n", "PASS zero fine\n", "PASS 00 fine\n", "FAIL 940 x\n"])
def test_what_is_no_verdict_is_unknown(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "verdict"
    if text is not None:
        file.write_text(text)
    assert plugin(file)[0] == "Unknown"


# ---- the page ----


def test_a_path_of_a_command_of_the_page_exists() -> None:
    """What is applied is there, and every folder is in the page's table."""
    paths = re.findall(r"docker/kubernetes/[\w./-]+", README)
    assert len(paths) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == set(re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE))
