"""The forms that texts in images.yaml have: patterns, what an error message calls them, and types made of them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME: Final = r"^[a-z][a-z0-9]*$"
IMAGE_ID: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+){1,3}$"
SHA256: Final = r"^[0-9a-f]{64}$"
COMMIT: Final = r"^[0-9a-f]{40}$"
VERSION: Final = r"^[0-9]+(\.[0-9]+)+((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?$"
PACKAGE: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"
DIGEST: Final = r"^sha256:[0-9a-f]{64}$"
REFERENCE: Final = r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+$"
URL: Final = r"^https://[^\s/]+/\S*$"
WHEEL_URL: Final = r"^https://[^\s/]+/(\S*/)?[A-Za-z0-9_.%+]+(-[A-Za-z0-9_.%+]+){4}\.whl$"
TEXT: Final = r"\S"
TEST: Final = r"^tests/[a-z0-9_/]+\.py::test_[a-z0-9_]+$"
MODULE: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
HEAD_DIMS: Final = r"^[1-9][0-9]*(/[1-9][0-9]*)?$"

# What an error message calls a text of each form.
FORMS: Final = {
    NAME: "a name of lower-case letters and digits",
    IMAGE_ID: "an image id such as fa4-cu128",
    VERSION: "one exact version such as 2.10.0",
    PACKAGE: "the normalised name of a Python distribution such as flash-attn-4",
    DIGEST: "a digest: sha256: and 64 hexadecimal digits",
    REFERENCE: "an image with registry and tag such as docker.io/library/debian:bookworm-slim",
    URL: "a link that starts with https://",
    WHEEL_URL: "a link that starts with https:// and ends in the name of a wheel",
    SHA256: "a SHA-256: 64 hexadecimal digits",
    COMMIT: "a commit's whole hash: 40 hexadecimal digits",
    TEST: "a test such as tests/unit/test_mends.py::test_integers",
    MODULE: "a module such as flash_attn.cute",
    HEAD_DIMS: 'head dims such as "128", or "192/128" where those of v differ',
}

Name = Annotated[str, StringConstraints(pattern=NAME)]
ImageId = Annotated[str, StringConstraints(pattern=IMAGE_ID)]
Version = Annotated[str, StringConstraints(pattern=VERSION)]
Package = Annotated[str, StringConstraints(pattern=PACKAGE)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST)]
Reference = Annotated[str, StringConstraints(pattern=REFERENCE)]
Url = Annotated[str, StringConstraints(pattern=URL)]
WheelUrl = Annotated[str, StringConstraints(pattern=WHEEL_URL)]
Text = Annotated[str, StringConstraints(pattern=TEXT)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
HeadDims = Annotated[str, StringConstraints(pattern=HEAD_DIMS)]
Test = Annotated[str, StringConstraints(pattern=TEST)]
Module = Annotated[str, StringConstraints(pattern=MODULE)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256)]
Commit = Annotated[str, StringConstraints(pattern=COMMIT)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
