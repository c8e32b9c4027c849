"""docker/kubernetes: what has an image's tag or an exit code in it. All else there is written by hand.

The training Job, its twins for JobSet and Kubeflow Trainer, and the node check share one pod and one policy, so that
what a code means stands in one place. The codes are `entrypoint.judge.finding.Code`, the tags those of images.yaml.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from attn_matrix.matrix.model import Image, Matrix
from entrypoint.judge.finding import Code
from entrypoint.spec import BANNER

FOLDER: Final = "docker/kubernetes"
# The image of the manifests: an overlay puts another one in its place. A node check takes its variant without Axolotl.
IMAGE: Final = "fa4-cu128"
NAME: Final = "train"
CHECK: Final = "attn-node-check"
PORT: Final = 29500  # torchrun's own default
GPUS: Final = {"nvidia.com/gpu": 8}
# What no other node would do better, and what says something of the node itself. A pod that ends with any other code,
# the command's own among them, is replaced as often as backoffLimit allows.
NEVER_AGAIN: Final = (Code.CONFIG, Code.WRONG)
OF_THE_NODE: Final = (Code.MISMATCH, Code.WRONG, Code.SLOW, Code.GPU_FAULT)
RETRIES: Final = 6
# The node check's verdict on the node, and where its pod and node-problem-detector's see that folder.
ON_NODE: Final = "/var/lib/axolotl-attn"
IN_POD: Final = "/verdict"
TAINT: Final = "readiness.k8s.io/axolotl-attn"
# How long a rank waits for the others: a pod may be replaced, and its image pulled, while the others are there already.
RENDEZVOUS: Final = "read_timeout=1800,join_timeout=1800"

Manifest = dict[str, Any]

JOB = """\
# The training Job: one pod for each node, and torchrun in each of them. completions, parallelism and NODES are the
# number of nodes. `args` keeps the image's entrypoint, which checks; a `command:` has to begin with attn-run.
# The policy ends: what no other node would do better fails the Job at once, and anything else counts towards
# backoffLimit. Ignore is for disruptions alone, because an ignored failure is never counted.
"""
JOBSET = """\
# The same for JobSet: it fails for good where the Job's policy says so, and is started again otherwise.
"""
TRAINER = """\
# The same for Kubeflow Trainer 2, which sets torchrun's arguments as PET_ variables. A TrainJob gives its own command
# as `trainer.args`: `trainer.command` would take the place of the image's entrypoint, and nothing would be checked.
"""
CHECK_HEAD = """\
# The node check: on each node whose GPUs are free, one at a time, and its verdict into a file of that node. It asks for
# all GPUs of a node, so it never disturbs what runs there; parallelism and completions are the number of nodes.
# It tolerates the taint that its verdict leads to, which is how a mended node comes back.
"""
NVSENTINEL = """\
# Values for NVSentinel's chart: the check as an init container of pods that ask for it by
# nvsentinel.nvidia.com/preflight-checks: axolotl-attn. A list of Helm's replaces the chart's own: add those checks of
# NVSentinel that you use.
"""
SCRIPT = """\
#!/bin/sh
# {banner}
# A custom plugin of node-problem-detector: it reads the verdict file of the node check, and checks nothing itself.
# Ends with 0: no problem, 1: a problem of this node, 2: not known; what it prints is the condition's message.
set -u
if ! read -r verdict code reason <"$1"; then
    echo "no verdict in $1"
    exit 2
fi 2>/dev/null
echo "$verdict $code $reason"
case $code in
    {healthy}) exit 0 ;;
    {bad}) exit 1 ;;
    *) exit 2 ;;
esac
"""


def kubernetes_files(matrix: Matrix) -> dict[str, str]:
    """The generated files, by path; of a matrix without IMAGE, for its first image."""
    image = next((each for each in matrix.images if each.id == IMAGE), matrix.images[0])
    base = next((each for each in matrix.images if each.is_base and each.plain == image.id), image)
    tag = matrix.tag(image)
    manifests = {
        "base/job.yaml": (JOB, [job(tag)]),
        "examples/jobset.yaml": (JOBSET, [jobset(tag)]),
        "examples/trainer.yaml": (TRAINER, [runtime(tag), trainjob()]),
        "node-check/cronjob.yaml": (CHECK_HEAD, [node_check(matrix.tag(base))]),
        "nvsentinel/values.yaml": (NVSENTINEL, [nvsentinel(matrix, base)]),
    }
    files = {f"{FOLDER}/{name}": _text(head, *documents) for name, (head, documents) in manifests.items()}
    return {**files, f"{FOLDER}/node-condition/attention.sh": script()}


def job(tag: str) -> Manifest:
    """The Job of the kustomize base."""
    spec = job_spec(NAME, pod(NAME, tag, torchrun(f"{NAME}-0.{NAME}")))
    spec["template"]["spec"] = {"subdomain": NAME, **spec["template"]["spec"]}
    return _object("batch/v1", "Job", NAME, spec)


def jobset(tag: str) -> Manifest:
    """A JobSet of one Job; its pods are named after set, Job and index."""
    template = {"spec": job_spec(NAME, pod(NAME, tag, torchrun(f"{NAME}-node-0-0.{NAME}")))}
    spec = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": restarts(),
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": template}],
    }
    return _object("jobset.x-k8s.io/v1alpha2", "JobSet", NAME, spec)


def runtime(tag: str) -> Manifest:
    """A ClusterTrainingRuntime. Trainer sets the number of nodes and finds its container by the name `node`."""
    inner = job_spec("node", pod("node", tag, ["torchrun", *COMMAND]))
    for name in ("completions", "parallelism"):
        del inner[name]
    container = inner["template"]["spec"]["containers"][0]
    del container["env"], container["ports"]
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    node = {"name": "node", "template": {"metadata": {"labels": labels}, "spec": inner}}
    spec = {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {"spec": {"failurePolicy": restarts(), "replicatedJobs": [node]}},
    }
    found = _object("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime", "axolotl-attn", spec)
    found["metadata"]["labels"]["trainer.kubeflow.org/framework"] = "torch"
    return found


def trainjob() -> Manifest:
    """A TrainJob on two nodes of that runtime."""
    spec = {
        "runtimeRef": {"name": "axolotl-attn"},
        "trainer": {"numNodes": 2, "args": ["torchrun", *COMMAND]},
    }
    return _object("trainer.kubeflow.org/v1alpha1", "TrainJob", NAME, spec)


def node_check(tag: str) -> Manifest:
    """The CronJob. A pod that ends with a code above 0 has done its work: it is not run again, and stops no other."""
    pod_spec = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "priorityClassName": CHECK,
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in (TAINT, *GPUS)],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_alone(CHECK)]}},
        "containers": [_check_container(tag)],
        "volumes": [
            {"name": "verdict", "hostPath": {"path": ON_NODE, "type": "DirectoryOrCreate"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec = {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
        "backoffLimitPerIndex": 0,
        "activeDeadlineSeconds": 540,
        "ttlSecondsAfterFinished": 3600,
        "template": {"metadata": _labels(CHECK), "spec": pod_spec},
    }
    schedule = {
        "schedule": "*/10 * * * *",
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": {"spec": spec},
    }
    return _object("batch/v1", "CronJob", CHECK, schedule)


def _check_container(tag: str) -> Manifest:
    """The check as root without any capability: the folder on the node is root's."""
    return {
        "name": "check",
        "image": tag,
        "args": ["check", "--npd", f"{IN_POD}/verdict"],
        "env": [
            {"name": "ATTN_CACHE", "value": ""},
            {"name": "ATTN_SLOW", "value": "fail"},
            {"name": "ATTN_REPORT", "value": f"{IN_POD}/report.json"},
        ],
        "resources": {"limits": dict(GPUS)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "verdict", "mountPath": IN_POD}, {"name": "tmp", "mountPath": "/tmp"}],
    }


def nvsentinel(matrix: Matrix, image: Image) -> Manifest:
    """The values of the chart's part `preflight`."""
    check = {
        "name": matrix.project.name,
        "defaultEnabled": False,
        "image": {"repository": matrix.project.name, "tag": image.id},
        "args": ["check", "--exit-codes=nvsentinel"],
    }
    return {"global": {"preflight": {"enabled": True}}, "preflight": {"initContainers": [check]}}


def script() -> str:
    """The plugin of node-problem-detector."""
    return SCRIPT.format(banner=BANNER, healthy=Code.PASS.value, bad="|".join(str(code.value) for code in OF_THE_NODE))


# ---- what they share ----

COMMAND: Final = ("-m", "axolotl.cli.train", "config.yml")


def torchrun(host: str) -> list[str]:
    """torchrun on NODES nodes that meet at `host`, with a process for each GPU."""
    return [
        "torchrun",
        "--nnodes=$(NODES)",
        "--nproc-per-node=gpu",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={host}:{PORT}",
        f"--rdzv-id={NAME}",
        f"--rdzv-conf={RENDEZVOUS}",
        *COMMAND,
    ]


def job_spec(container: str, pod_spec: Manifest) -> Manifest:
    """An Indexed Job of one pod a node, with the policy about the exit codes of `container`."""
    return {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": RETRIES,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": policy(container),
        "template": {"metadata": _labels(NAME), "spec": pod_spec},
    }


def policy(container: str) -> Manifest:
    """The first rule that fits decides; a pod that none fits counts towards backoffLimit."""
    codes = [code.value for code in NEVER_AGAIN]
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": container, "operator": "In", "values": codes}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def restarts() -> Manifest:
    """JobSet's policy: a Job that its own policy failed fails the set."""
    rule = {"name": "never-again", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {"maxRestarts": 1, "rules": [rule]}


def pod(container: str, tag: str, args: list[str]) -> Manifest:
    """The training pod: GPUs, a workspace, and shared memory, which is 64 MiB otherwise and too little for NCCL.

    It has no token, so it can do nothing to the cluster. fsGroup: the images run as UID 1000, and a volume is root's.
    """
    return {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [
            {
                "name": container,
                "image": tag,
                "args": args,
                "env": [{"name": "NODES", "value": "1"}],
                "ports": [{"name": "rendezvous", "containerPort": PORT}],
                "resources": {"limits": dict(GPUS)},
                "volumeMounts": [{"name": "work", "mountPath": "/workspace"}, {"name": "shm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ],
    }


def _alone(name: str) -> Manifest:
    """No node with another pod of that name."""
    return {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": _labels(name)["labels"]}}


def _labels(name: str) -> Manifest:
    return {"labels": {"app.kubernetes.io/name": name}}


def _object(version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **_labels(name)}, "spec": spec}


class _Dumper(yaml.SafeDumper):
    """Without anchors, which a reader would have to resolve."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(head: str, *documents: Manifest) -> str:
    body = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
    return f"# {BANNER}\n{head}{body}"
