"""`nox -s inspect` and `nox -s sizes` on a real image: all is well, and what was broken on purpose is found.

The smallest image: without Axolotl, every one of its files is looked at in half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = "/opt/venv/lib/python3.11/site-packages"
BREAK = f"""
set -eu
cd {SITE}
touch stray.py
truncate --size=1000 torch/lib/libtorchbind_test.so
echo 'int missing(void); int f(void) {{ return missing(); }}' |
    gcc -shared -fPIC -x c - -o torch/lib/libjitbackend_test.so
sed -i 's/^Version: .*/Version: 1.0/' networkx-*.dist-info/METADATA
rm sympy/abc.py
chmod o+w /opt/attn/image.json
cp /bin/true /usr/bin/become-root && chmod u+s /usr/bin/become-root
mkdir -p /root/.cache/pip && echo x >/root/.cache/pip/x
echo '[global]' >/etc/pip.conf
printf -- '-----BEGIN CERTIFICATE-----\\n' >/etc/site.crt
printf '#!/bin/sh\\necho other\\n' >/usr/local/bin/attn-run
"""
# What each line of BREAK is found as, by check and subject.
FOUND = {
    ("files", "strays"),
    ("files", "as installed"),
    ("files", "bytecode"),
    ("import", "torch/lib/libtorchbind_test.so"),
    ("import", "torch/lib/libjitbackend_test.so"),
    ("lock", "networkx"),
    ("hygiene", "world-writable"),
    ("hygiene", "set-user-id"),
    ("hygiene", "left behind"),
    ("hygiene", "index settings"),
    ("hygiene", "secrets"),
    ("hygiene", "user"),
    ("history", "variables"),
    ("start", "attn-run"),
}


def matrix(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "attn_matrix", *arguments]
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'docker'}:{ROOT}"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["images"][0]["rows"]
    return found


@pytest.fixture
def broken(sdpa_cpu_base: str) -> Iterator[None]:
    """The image's tag on one that BREAK has been through; afterwards it is the image's again."""
    whole = docker("image", "inspect", "--format={{.Id}}", sdpa_cpu_base)
    entrypoint = docker("image", "inspect", "--format={{json .Config.Entrypoint}}", sdpa_cpu_base)
    container = docker("create", "--user=0", "--network=none", "--entrypoint=sh", sdpa_cpu_base, "-c", BREAK)
    try:
        docker("start", "--attach", container)
        changes = ("USER root", "ENV HF_TOKEN=x", f"ENTRYPOINT {entrypoint}")
        docker("commit", *(f"--change={change}" for change in changes), container, sdpa_cpu_base)
        made = docker("image", "inspect", "--format={{.Id}}", sdpa_cpu_base)
        yield
        docker("tag", whole, sdpa_cpu_base)
        docker("rmi", made)
    finally:
        docker("tag", whole, sdpa_cpu_base)
        docker("rm", container)


def test_the_image_passes(sdpa_cpu_base: str) -> None:
    """Every row, and a table for people."""
    done = matrix("inspect", "sdpa-cpu-base", "--json")
    found = rows(done)

    assert done.returncode == 0, [row for row in found if row["verdict"] == "fail"]
    assert {row["check"] for row in found} >= {"import", "GPU code", "lock", "files", "hygiene", "history", "start"}
    assert {"torch", "torch/lib/libtorch_cpu.so"} <= {row["subject"] for row in found}


def test_what_is_broken_is_found(broken: None) -> None:
    """Each fault by its row, and by the exit code."""
    done = matrix("inspect", "sdpa-cpu-base", "--json")
    failed = {(row["check"], row["subject"]): row["reason"] for row in rows(done) if row["verdict"] == "fail"}

    assert done.returncode == 1
    assert FOUND - failed.keys() == set()
    assert "undefined symbol: missing" in failed["import", "torch/lib/libjitbackend_test.so"]
    assert failed["lock", "networkx"].startswith("1.0 is installed, the lock has ")


def test_sizes_are_the_engines(sdpa_cpu_base: str) -> None:
    """The sum of the layers is what the engine says of the image."""
    done = matrix("sizes", "sdpa-cpu-base", "--json", "--inside")
    (size,) = json.loads(done.stdout)["images"]
    driver = docker("info", "--format={{.Driver}}")

    assert done.returncode == 0, done.stderr
    assert size["usage"]["distributions"]["torch"] > 5e8
    if driver == "overlay2":  # containerd's store adds the compressed layers
        assert size["bytes"] == int(docker("image", "inspect", "--format={{.Size}}", sdpa_cpu_base))
