"""The verdict as labels of the node: a file for node-feature-discovery's folder features.d.

Form: node-feature-discovery v0.19, "Customization guide", "Local feature source". A label's namespace has to be
written, a value is a Kubernetes label value, and after the expiry time the labels are taken away.
"""

from __future__ import annotations

import re
import time
from typing import Final

from entrypoint.report.text import Report

NAMESPACE: Final = "feature.node.kubernetes.io/axolotl-attn."
LONGEST: Final = 63  # characters of a label value


def render(report: Report, expiry: float) -> str:
    """The labels as `key=value` lines, valid until `expiry` (seconds since 1970)."""
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expiry))
    labels = {
        "verdict": report["verdict"],
        "code": report["code"]["name"],
        "backend": report["backend"]["checked"] or report["backend"]["requested"],
        "image": report["image"]["id"],
        "version": report["image"]["version"],
    }
    lines = [f"{NAMESPACE}{name}={label_value(str(value))}" for name, value in labels.items()]
    return "\n".join([f"# +expiry-time={until}", *lines]) + "\n"


def label_value(text: str) -> str:
    """`text` as a label value: letters, digits, `-`, `_` and `.`, of which a letter or digit stands at each end."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:LONGEST].strip("._-")
