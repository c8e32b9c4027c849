"""The node check as its CronJob runs it, and the plugin of node-problem-detector that reads what it wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kubernetes.manifests import FOLDER, Manifest, built, only, pods
from tests.patience import CHECK, PATIENCE


def options(pod: Manifest, folder: Path) -> list[str]:
    """What docker calls the pod's security context, volumes and variables; `folder` is the node's."""
    (container,) = pod["containers"]
    user, own = pod["securityContext"], container["securityContext"]
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    return [
        *("--read-only", "--security-opt=no-new-privileges", f"--user={user['runAsUser']}:{user['runAsGroup']}"),
        *(f"--cap-drop={each}" for each in own["capabilities"]["drop"]),
        *(f"--env={each['name']}={each['value']}" for each in container["env"]),
        *(f"--volume={folder}:{mounts['verdict']}", f"--tmpfs={mounts['tmp']}:exec", "--network=none"),
    ]


def test_a_verdict_is_written_and_read(sdpa_cpu_base: str, tmp_path: Path) -> None:
    """Into a folder of root's, by root without a capability; the report is beside it."""
    pod = next(pods(only(built(FOLDER / "node-check"), "CronJob")))
    command = ["docker", "run", "--rm", *options(pod, tmp_path), f"--env=ATTN_TIMEOUT={CHECK}", sdpa_cpu_base]
    command += pod["containers"][0]["args"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr

    script = str(FOLDER / "node-condition/attention.sh")
    read = subprocess.run(["sh", script, str(tmp_path / "verdict")], capture_output=True, text=True, check=False)
    assert read.returncode == 0
    assert read.stdout.startswith("PASS 0 sdpa is right")
    assert (tmp_path / "report.json").exists()
