"""The verdict cache and what compilers keep: poisoned, foreign, unwritable, shared; and clocks that jump."""

from __future__ import annotations

from typing import Final

from tests.engine.faults.fault import RUNS, Fault

DIRECTORY: Final = "/data/cache"
HERE: Final = {"ATTN_CACHE": DIRECTORY}
CHECKS: Final = "attn-run check"
PASSES: Final = r"PASS.*: sdpa is right in 1 of 1 cases"


def edited(change: str) -> str:
    """A check, and then a change of the `entry` that it left, in Python."""
    program = f"""
import glob, json
(path,) = glob.glob("{DIRECTORY}/*.json")
entry = json.load(open(path))
{change}
json.dump(entry, open(path, "w"))
"""
    return f"{CHECKS}; python -c '{program}'"


def poisoned(name: str, change: str, says: str) -> Fault:
    return Fault(name=name, env=HERE, before=edited(change), code=RUNS, says=says)


def replaced(name: str, script: str, says: str) -> Fault:
    """A check, and then a shell script for which $entry is the file that it left."""
    before = f"{CHECKS}; entry=$(echo {DIRECTORY}/*.json); {script}"
    return Fault(name=name, env=HERE, before=before, code=RUNS, says=says)


def unusable(name: str, option: str, says: str) -> Fault:
    return Fault(name=name, env={"ATTN_CACHE": "/cache"}, options=(option,), code=RUNS, says=says)


JUMPING: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
/* The calendar goes back and forth by a year with each look at it, as no clock ever did. */
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static int looks;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += looks++ % 2 ? 31536000 : -31536000;
    return failed;
}
"""

FAULTS: Final = (
    poisoned("a verdict turned into another", 'entry["report"]["headline"]["what"] = "fine"', r"was ignored: "),
    poisoned("a verdict that is empty", 'entry["report"] = {"verdict": "PASS"}', r"was ignored: "),
    poisoned("another image's verdict", 'entry["key"]["image"] = "fa4-cu128"', r"it was made for something else"),
    poisoned("another version's verdict", 'entry["schema"] = 0', r"it is not a verdict of this version"),
    poisoned("a verdict of tomorrow: the clock went back", 'entry["saved"] += 86400', r"or from the future"),
    poisoned(
        "a verdict of last week: the clock went ahead", 'entry["saved"] -= 7 * 86400', r"it is older than 24 hours"
    ),
    replaced("half a verdict", 'truncate -s 500 "$entry"', r"it is not a verdict of this version"),
    replaced(
        "brackets without an end", "python -c 'print(\"[\" * 100000)' >$entry", r"it is not a verdict of this version"
    ),
    replaced("a folder in a verdict's place", 'rm "$entry"; mkdir "$entry"', r"cannot be read \(Is a directory\)"),
    replaced("a pipe in a verdict's place", 'rm "$entry"; mkfifo "$entry"', r"cannot be read \("),
    replaced("an endless device in a verdict's place", 'ln -sf /dev/zero "$entry"', r"was ignored|cannot be read"),
    Fault(
        name="a poisoned kernel",
        behaviour="compiled",
        env=HERE,
        before=f"{CHECKS}; rm {DIRECTORY}/*.json; echo evil >$(find {DIRECTORY} -name kernel)",
        code=RUNS,
        says=r"was ignored: triton/kernel is not as it was kept",
    ),
    Fault(
        name="a list of kernels that is brackets without an end",
        behaviour="compiled",
        env=HERE,
        before=f"{CHECKS}; python -c 'print(\"[\" * 100000)' >$(find {DIRECTORY} -name sealed.json)",
        code=RUNS,
        says=r"was ignored: sealed.json cannot be read",
    ),
    Fault(
        name="a pipe in the place of a list of kernels",
        behaviour="compiled",
        env=HERE,
        before=f"{CHECKS}; list=$(find {DIRECTORY} -name sealed.json); rm $list; mkfifo $list",
        code=RUNS,
        says=r"was ignored: sealed.json cannot be read",
    ),
    Fault(
        name="kernels of another user",
        env=HERE,
        before=CHECKS,
        options=("--user=12345:0",),
        code=RUNS,
        says=r"it belongs to user 1000, not to 12345",
    ),
    unusable("a cache that is full", "--tmpfs=/cache:size=1m,mode=1777", r"\(No space left on device\)"),
    unusable("a cache without a free inode", "--tmpfs=/cache:nr_inodes=1,mode=1777", r"\(No space left on device\)"),
    unusable("a cache that is read-only", "--tmpfs=/cache:ro,mode=1777", r"\(Read-only file system\)"),
    unusable("a cache of another user", "--tmpfs=/cache:mode=700", r"\(Permission denied\)"),
    unusable("a file in the cache's place", "--volume=/dev/null:/cache", r"\(Not a directory\)"),
    Fault(
        name="a link to itself in the cache's place",
        env=HERE,
        before=f"ln -s cache {DIRECTORY}",
        code=RUNS,
        says=r"\(Too many levels of symbolic links\)",
    ),
    Fault(name="eight start together on one cache", behaviour="compiled", env=HERE, together=8, code=RUNS, says=PASSES),
    Fault(
        name="the clock jumps by years during the check",
        env={**HERE, "LD_PRELOAD": "/data/jumping.so"},
        files={"jumping.c": JUMPING},
        before="LD_PRELOAD= gcc -shared -fPIC -o /data/jumping.so /data/jumping.c; attn-run check",
        code=RUNS,
        says=r"or from the future",
    ),
)
