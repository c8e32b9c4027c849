"""What a schema does not see and the server refuses: wrong words, fields that exclude each other, names that lead
nowhere; and the restricted Pod Security Standard.

Sources: the API reference of Kubernetes 1.36 and its page "Pod Security Standards".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.kubernetes.manifests import Manifest, jobs, pods

# The words that a field takes, wherever it stands.
WORDS: dict[str, frozenset[str]] = {
    "action": frozenset({"FailJob", "FailIndex", "Count", "Ignore", "FailJobSet", "RestartJobSet"}),
    "completionMode": frozenset({"Indexed", "NonIndexed"}),
    "concurrencyPolicy": frozenset({"Allow", "Forbid", "Replace"}),
    "effect": frozenset({"NoSchedule", "PreferNoSchedule", "NoExecute"}),
    "enforcementMode": frozenset({"bootstrap-only", "continuous"}),
    "fsGroupChangePolicy": frozenset({"OnRootMismatch", "Always"}),
    "medium": frozenset({"", "Memory"}),
    "operator": frozenset({"In", "NotIn", "Exists", "DoesNotExist", "Equal"}),
    "podReplacementPolicy": frozenset({"Failed", "TerminatingOrFailed"}),
    "preemptionPolicy": frozenset({"Never", "PreemptLowerPriority"}),
    "defaultStatus": frozenset({"True", "False", "Unknown"}),
    "requiredStatus": frozenset({"True", "False", "Unknown"}),
    "restartPolicy": frozenset({"Never", "OnFailure", "Always"}),
    "status": frozenset({"True", "False", "Unknown"}),
}
VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"})


def mistakes(document: Manifest) -> list[str]:
    """A line for each thing that a server would refuse."""
    found = [*_words(document)]
    for job in jobs(document):
        found += _job(job)
    for pod in pods(document):
        found += _pod(pod)
    return found


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in WORDS and isinstance(inner, str) and inner not in WORDS[name]:
                yield f"{name}: {inner} is none of {', '.join(sorted(WORDS[name]))}"
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


def _job(job: Manifest) -> Iterator[str]:
    pod = job["template"]["spec"]
    if pod.get("restartPolicy") not in {"Never", "OnFailure"}:
        yield "a Job's restartPolicy is Never or OnFailure"
    if "backoffLimitPerIndex" in job and job.get("completionMode") != "Indexed":
        yield "backoffLimitPerIndex is for an Indexed Job"
    if "podFailurePolicy" in job:
        if pod.get("restartPolicy") != "Never":
            yield "a podFailurePolicy needs restartPolicy Never"
        if job.get("podReplacementPolicy", "Failed") != "Failed":
            yield "a podFailurePolicy needs podReplacementPolicy Failed"
        names = {each["name"] for each in [*pod["containers"], *pod.get("initContainers", [])]}
        for rule in job["podFailurePolicy"]["rules"]:
            yield from _rule(rule, names)


def _rule(rule: Manifest, names: set[str]) -> Iterator[str]:
    codes = rule.get("onExitCodes")
    if (codes is None) == (rule.get("onPodConditions") is None):
        yield "a rule has either onExitCodes or onPodConditions"
    if codes is not None:
        values = codes["values"]
        if codes.get("containerName", next(iter(names))) not in names:
            yield f"no container is called {codes['containerName']}"
        if codes["operator"] == "In" and 0 in values:
            yield "0 is no failure"
        if not values or values != sorted(set(values)):
            yield "the codes are ordered, each of them once"


def _pod(pod: Manifest) -> Iterator[str]:
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if len(volumes) != len(set(volumes)):
        yield "two volumes have one name"
    for container in pod["containers"]:
        mounts = container.get("volumeMounts", [])
        yield from (f"no volume is called {each['name']}" for each in mounts if each["name"] not in volumes)
        paths = [each["mountPath"] for each in mounts]
        if len(paths) != len(set(paths)):
            yield "two volumes are mounted at one path"
        names = [each["name"] for each in container.get("env", [])]
        if len(names) != len(set(names)):
            yield "a variable is set twice"


def restricted(pod: Manifest) -> list[str]:
    """What the restricted Pod Security Standard says against a pod."""
    context = pod.get("securityContext", {})
    found = [
        f"volume {volume['name']}"
        for volume in pod.get("volumes", [])
        if not (volume.keys() - {"name"}) <= VOLUMES or volume.keys() == {"name"}
    ]
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        found.append("runAsNonRoot")
    if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        found.append("seccompProfile")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            found.append("capabilities")
        if own.get("privileged"):
            found.append("privileged")
    return found
