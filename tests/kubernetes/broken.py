"""Faults of a Job that fit its schema, each planted into the spec of a good one."""

from __future__ import annotations

from collections.abc import Callable

from tests.kubernetes.manifests import Manifest

DISRUPTED = [{"type": "DisruptionTarget", "status": "True"}]
BROKEN: dict[str, Callable[[Manifest], object]] = {
    "restartPolicy OnFailure": lambda job: job["template"]["spec"].update(restartPolicy="OnFailure"),
    "restartPolicy Sometimes": lambda job: job["template"]["spec"].update(restartPolicy="Sometimes"),
    "no restartPolicy": lambda job: job["template"]["spec"].pop("restartPolicy"),
    "completionMode": lambda job: job.update(completionMode="Index"),
    "action": lambda job: job["podFailurePolicy"]["rules"][0].update(action="Fail"),
    "operator": lambda job: job["podFailurePolicy"]["rules"][0]["onExitCodes"].update(operator="Within"),
    "status": lambda job: job["podFailurePolicy"]["rules"][1]["onPodConditions"][0].update(status="true"),
    "another container": lambda job: job["podFailurePolicy"]["rules"][0]["onExitCodes"].update(containerName="main"),
    "code 0": lambda job: job["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=[0, 90]),
    "codes out of order": lambda job: job["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=[92, 90]),
    "a rule of both kinds": lambda job: job["podFailurePolicy"]["rules"][0].update(onPodConditions=DISRUPTED),
    "podReplacementPolicy": lambda job: job.update(podReplacementPolicy="TerminatingOrFailed"),
    "backoffLimitPerIndex": lambda job: job.update(backoffLimitPerIndex=0, completionMode="NonIndexed"),
    "no such volume": lambda job: job["template"]["spec"]["volumes"].pop(),
    "a variable twice": lambda job: job["template"]["spec"]["containers"][0]["env"].append({"name": "NODES"}),
    "medium": lambda job: job["template"]["spec"]["volumes"][1]["emptyDir"].update(medium="memory"),
}
# Of these a server says nothing, or warns alone; they are mistakes all the same.
LET_THROUGH = ("a variable twice", "medium")
