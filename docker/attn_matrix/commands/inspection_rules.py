"""What `nox -s inspect` concludes from the facts about an image: rows, each with a verdict and its reason.

These functions are pure: they ask no engine and read no file.

The facts come from docker/inside, which runs in the image, and from the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from inside.facts import Files, Installed, Library, Loads

from attn_matrix.matrix.model import AXOLOTL, TORCH, Image, Matrix
from attn_matrix.rendered.bake import compiled_for, start_compiled_for

Verdict = Literal["pass", "fail", "n/a"]

# Set-user-id and set-group-id programs of Debian's base-passwd, login, passwd, mount, util-linux and libpam.
DEBIANS_PRIVILEGED: Final = frozenset(
    [
        *("/usr/sbin/unix_chkpwd", "/usr/bin/chage", "/usr/bin/chfn", "/usr/bin/chsh", "/usr/bin/expiry"),
        *("/usr/bin/gpasswd", "/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/passwd", "/usr/bin/su"),
        *("/usr/bin/umount", "/usr/bin/wall"),
    ]
)
# Names of build arguments and variables whose values nobody should see.
CONFIDENTIAL: Final = re.compile(r"(TOKEN|PASSW|SECRET|CREDENTIAL|PRIVATE|API_?KEY|AUTH)", re.IGNORECASE)
# Names that choose an index or a proxy: a site's own, and nothing for an image to carry.
SITE: Final = re.compile(r"^(PIP|UV)_.*(INDEX|FIND_LINKS|CERT|HOST|PROXY)|_PROXY$|_CA_BUNDLE$", re.IGNORECASE)
WITH_PASSWORD: Final = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
# What BuildKit writes before the command of a RUN: `RUN |2 LOCK=docker/locks/cpu.txt TORCH=torch==2.13.0 /bin/sh -c`.
RUN_ARGUMENTS: Final = re.compile(r"^RUN \|\d+ (.*?) /bin/sh -c", re.DOTALL)
ASSIGNED: Final = re.compile(r"(?:^|\s)([A-Za-z_][A-Za-z0-9_]*)=(?=\S)")
SHOWN: Final = 4
# The distribution that docker/scripts/install-mends makes.
MENDS: Final = "axolotl-attn-mends"


@dataclass(frozen=True)
class Conclusion:
    """`subject` is what was looked at, `reason` why the verdict is what it is."""

    check: str
    subject: str
    verdict: Verdict
    reason: str


def ok(check: str, subject: str, reason: str) -> Conclusion:
    return Conclusion(check, subject, "pass", reason)


def failed(check: str, subject: str, reason: str) -> Conclusion:
    return Conclusion(check, subject, "fail", reason)


def not_applicable(check: str, subject: str, reason: str) -> Conclusion:
    return Conclusion(check, subject, "n/a", reason)


def none_of(check: str, subject: str, found: Sequence[str], otherwise: str) -> Conclusion:
    """A failure that shows the first things found, or a pass that says `otherwise`."""
    if not found:
        return ok(check, subject, otherwise)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return failed(check, subject, "; ".join(found[:SHOWN]) + more)


# ---- imports ----


def imports(facts: Loads) -> Iterator[Conclusion]:
    """A row for each module and library of torch and of the kernel packages."""
    for load in facts.loads:
        said = load.error or ("loads, every symbol found" if ".so" in load.name else "imports")
        reason = f"{said} ({load.note})" if load.note else said
        yield Conclusion("import", load.name, "fail" if load.error else "pass", " ".join(reason.split()))


# ---- GPU code ----


@dataclass(frozen=True)
class CodeClaim:
    """The capabilities of the GPUs that a package is in the image for.

    `compiled`: it is a wheel with code for GPUs in it. `exactly`: we compiled it, so that code for any other GPU is a
    mistake of the build; what somebody else compiled may have more.
    """

    capabilities: tuple[str, ...]
    compiled: bool = False
    exactly: bool = False


def claims(matrix: Matrix, image: Image) -> dict[str, CodeClaim]:
    """What torch and each kernel package of the image has to have code for."""
    found = {TORCH: CodeClaim(_capabilities(matrix, matrix.image_architectures(image)))}
    for name in image.backends:
        for package in matrix.backends[name].packages:
            compiled = matrix.wheel(package, image.platform) is not None and not image.triton
            found[package] = CodeClaim(
                _capabilities(matrix, matrix.backend_architectures(image, name)),
                compiled=compiled,
                exactly=compiled and matrix.prebuilt_wheel(package, image) is None,
            )
    return found


def _capabilities(matrix: Matrix, architectures: Iterable[str]) -> tuple[str, ...]:
    return tuple(capability for name in architectures for capability in matrix.architectures[name].capabilities)


def gpu_code(libraries: Sequence[Library], claimed: Mapping[str, CodeClaim]) -> Iterator[Conclusion]:
    """A row for each library of torch, all of which every GPU needs, and one for all libraries of a kernel package.

    SageAttention has a library for each architecture.
    """
    for package, claim in claimed.items():
        own = [library for library in libraries if library.distribution == package]
        coded = [library for library in own if library.code]
        yield from (failed("GPU code", library.path, library.error) for library in own if library.error)
        if not own and claim.compiled:
            yield failed("GPU code", package, "holds no compiled file, and its wheel is for GPUs")
        elif not own:
            yield not_applicable("GPU code", package, "holds no compiled file: it compiles its kernels on first calls")
        elif not coded:
            yield failed("GPU code", package, f"none of its {len(own)} compiled files holds code for a GPU")
        elif package == TORCH:
            for library in coded:
                yield coverage("GPU code", library.path, library.code, claim.capabilities)
        else:
            yield _package(package, coded, claim)


def _package(package: str, libraries: Sequence[Library], claim: CodeClaim) -> Conclusion:
    targets = {target for library in libraries for target in library.code}
    row = coverage("GPU code", package, targets, claim.capabilities)
    wasted = [t for t in sorted(targets, key=_order) if not any(covers(t, each) for each in claim.capabilities)]
    if claim.exactly and wasted and row.verdict == "pass":
        return failed("GPU code", package, f"has code for no GPU that this image is for: {' '.join(wasted)}")
    return row


def coverage(check: str, subject: str, has: Iterable[str], capabilities: Sequence[str]) -> Conclusion:
    """Whether the code that it `has` runs on GPUs of all `capabilities`; the reason says by which each is served."""
    targets = sorted(has, key=_order)
    serving = {capability: server(targets, capability) for capability in capabilities}
    missing = [capability for capability, target in serving.items() if target is None]
    held = " ".join(targets) or "nothing"
    if missing:
        return failed(check, subject, f"no code for {', '.join(missing)}; it has {held}")
    others = {c: t for c, t in serving.items() if t and _number(t) != _capability(c)}
    by_others = ", ".join(f"{c} by {t}" for c, t in others.items())
    return ok(check, subject, f"{held}{f' ({by_others})' if by_others else ''}")


def server(targets: Iterable[str], capability: str) -> str | None:
    """The target whose code a GPU of `capability` runs: machine code before PTX, the newest first; None without any."""
    fitting = [target for target in targets if covers(target, capability)]
    return max(fitting, key=lambda target: (not target.startswith("compute_"), _number(target)), default=None)


def covers(target: str, capability: str) -> bool:
    """Whether code for `target` (sm_86, sm_90a, compute_80, gfx942) runs on a GPU of `capability` (8.9, gfx942).

    NVIDIA's machine code runs on its own major version from its minor version on, PTX on everything newer; the suffix
    `a` ties either to one capability, `f` to one family (CUDA C++ Programming Guide, Compute Capabilities).
    """
    if target == capability:
        return True
    match = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", target)
    wanted = _capability(capability)
    if match is None or wanted is None:
        return False
    kind, number, suffix = match[1], int(match[2]), match[3]
    if suffix == "a":
        return number == wanted
    same_major = number // 10 == wanted // 10
    return number <= wanted and (same_major or (kind == "compute" and not suffix))


def _capability(text: str) -> int | None:
    """90 of "9.0"; None of an AMD name."""
    major, _, minor = text.partition(".")
    return 10 * int(major) + int(minor) if major.isdigit() and minor.isdigit() else None


def _number(target: str) -> int | None:
    digits = re.search(r"_(\d+)", target)
    return int(digits[1]) if digits else None


def _order(target: str) -> tuple[bool, int, str]:
    return target.startswith("compute_"), _number(target) or 0, target


# ---- what is installed ----


def versions(installed: Mapping[str, str], lock: Mapping[str, str], pinned: Mapping[str, str]) -> Iterator[Conclusion]:
    """A row for each distribution of another version than the lock's, and two for all of them together."""
    expected = {**lock, **pinned}
    known = {name: version for name, version in sorted(installed.items()) if name in expected}
    right = [name for name, version in known.items() if version == expected[name] or "/" in expected[name]]
    for name, version in known.items():
        if name not in right:
            yield failed("lock", name, f"{version} is installed, the lock has {expected[name]}")
    if AXOLOTL in installed and AXOLOTL not in pinned:
        yield failed("lock", AXOLOTL, "is installed, and this image is one without it")
    for name, version in pinned.items():
        if name not in installed:
            yield failed("lock", name, f"{version} is pinned, and not installed")
    unknown = [f"{name} {version}" for name, version in sorted(installed.items()) if name not in known]
    yield none_of("lock", "unknown", unknown, "nothing is installed that the lock does not know")
    yield (ok if right else failed)("lock", "versions", f"{len(right)} distributions are of the lock's version")


def others(installed: Mapping[str, str]) -> dict[str, str]:
    """All distributions but our own, which no lock has."""
    return {name: version for name, version in installed.items() if name != MENDS}


def mends(matrix: Matrix, image: Image, facts: Installed) -> Conclusion:
    """Whether the wrappers that are installed are those of images.yaml: of mends, and of kernels to ask for by name."""
    wanted, found = sorted({**matrix.image_mends(image), **matrix.image_kernels(image)}), sorted(facts.mends)
    if not wanted and not found and MENDS not in facts.versions:
        return not_applicable("mends", "none", "images.yaml has none for this image")
    if wanted == found:
        return ok("mends", MENDS, ", ".join(found))
    return failed("mends", MENDS, f"has {', '.join(found) or 'none'}; images.yaml has {', '.join(wanted) or 'none'}")


def recorded(facts: Installed) -> Iterator[Conclusion]:
    yield none_of("files", "as installed", facts.broken, "every recorded file is there with its size")
    yield none_of("files", "strays", facts.unrecorded, "no file in site-packages that nobody installed")
    yield none_of("files", "contested", facts.contested, "no file that two distributions installed")
    yield none_of("files", "bytecode", facts.uncompiled, f"{facts.sources} sources have bytecode that fits them")


def flash_attention_4(matrix: Matrix, image: Image, facts: Installed) -> Iterator[Conclusion]:
    """Who owns flash_attn.cute, and for which GPUs its kernels are in the image."""
    if "flash-attn-4" not in matrix.pinned_packages(image):
        yield not_applicable("owner", "flash_attn.cute", "the image has no flash-attn-4")
        return
    yield none_of("owner", "flash_attn.cute", facts.stub, "every file is flash-attn-4's, unchanged")
    wanted = compiled_for(matrix, image)
    if not wanted:
        yield not_applicable("prebuilt", "flash-attn-4", "images.yaml names no head dims to compile")
    yield from _counted("prebuilt", wanted, facts.kernels)


def start_kernels(matrix: Matrix, image: Image, facts: Installed) -> Iterator[Conclusion]:
    """For which GPUs the image has Triton's kernels of a start."""
    wanted = start_compiled_for(matrix, image)
    if not wanted:
        yield not_applicable("a start's", "Triton", "the image has no backend whose start Triton compiles, for NVIDIA")
    yield from _counted("a start's", wanted, facts.start_kernels)


def _counted(check: str, wanted: Sequence[str], found: Mapping[str, int]) -> Iterator[Conclusion]:
    """A row for each GPU that kernels are wanted for, and one for those that nobody wants."""
    for target in wanted:
        count = found.get(target, 0) + found.get(f"{target}a", 0)
        yield (ok if count else failed)(check, target, f"{count} kernels")
    others = [f"{n} kernels for {t}" for t, n in found.items() if t.removesuffix("a") not in wanted]
    if others:
        yield failed(check, "others", ", ".join(others))


# ---- hygiene ----


def hygiene(facts: Files, of_base: Mapping[str, str]) -> Iterator[Conclusion]:
    """`of_base`: those of the paths found that are the base image's own, with its name."""
    privileged = tuple(path for path in facts.privileged if path not in DEBIANS_PRIVILEGED)
    for subject, found, otherwise in (
        ("world-writable", facts.writable, f"nothing among {facts.count} entries"),
        ("set-user-id", privileged, f"{len(facts.privileged)} programs, all of Debian's base"),
        ("left behind", facts.left, "no cache, list or log of pip, uv, apt or the build"),
        ("index settings", facts.settings, "no pip.conf, uv.toml or apt setting of an index, proxy or certificate"),
        ("secrets", facts.secrets, "no key, and no certificate beyond Debian's"),
    ):
        inherited = [each for each in found if path_of(each) in of_base]
        own = [each for each in found if path_of(each) not in of_base]
        if inherited and not own:
            base = of_base[path_of(inherited[0])]
            yield not_applicable(
                "hygiene", subject, f"only what the base image {base} has already: {'; '.join(inherited)}"
            )
        else:
            yield none_of("hygiene", subject, own, otherwise)


def findings(facts: Files) -> list[str]:
    """The paths that `hygiene` would call a failure."""
    every = (*facts.writable, *facts.privileged, *facts.left, *facts.settings, *facts.secrets)
    return [path for each in every if (path := path_of(each)) not in DEBIANS_PRIVILEGED]


def path_of(finding: str) -> str:
    return finding.partition(": ")[0]


def user(name: str) -> Conclusion:
    if name.partition(":")[0] in ("", "0", "root"):
        return failed("hygiene", "user", f"it runs as root (USER {name or 'is not set'})")
    return ok("hygiene", "user", f"it runs as {name}")


def named(name: str, entrypoint: str, said: str) -> Conclusion:
    """Whether the program `name` says what the image's entrypoint says."""
    if entrypoint and entrypoint == said:
        return ok("start", name, "is on PATH, and says what the entrypoint says")
    return failed("start", name, f"says {said[:40]!r}, and the entrypoint {entrypoint[:40]!r}")


def history(steps: Sequence[str], environment: Sequence[str]) -> Iterator[Conclusion]:
    """What the image's history and variables show of the site that built it. `steps`: its instructions, as
    `docker history` lists them.
    """
    told = [name for step in steps for name in _arguments(step) if CONFIDENTIAL.search(name) or SITE.search(name)]
    told += [f"an address with a password in step {n}" for n, step in enumerate(steps) if WITH_PASSWORD.search(step)]
    yield none_of("history", "build arguments", tuple(dict.fromkeys(told)), f"no secret in {len(steps)} steps")
    names = [entry.partition("=")[0] for entry in environment]
    told = [name for name in names if CONFIDENTIAL.search(name) or SITE.search(name)]
    yield none_of("history", "variables", told, f"no secret, index or proxy among {len(names)} variables")


def _arguments(step: str) -> list[str]:
    """The names that a step assigns: ARG's, ENV's, and those that a RUN was given. Its script is no assignment."""
    match = RUN_ARGUMENTS.match(step)
    if match:
        return ASSIGNED.findall(match[1])
    return ASSIGNED.findall(step) if step.startswith(("ARG ", "ENV ")) else []
