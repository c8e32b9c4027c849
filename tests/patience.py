"""How long the tests wait, in one place: for a machine at a quarter of the usual speed, beside a busy neighbour.

No test measures with these limits. They end what hangs, so that the test fails in place of waiting for ever.
"""

from __future__ import annotations

from typing import Final

# Seconds for a program that a test runs to its end. The longest takes about a minute on two idle cores.
PATIENCE: Final = 900.0
# ATTN_TIMEOUT of a real check in a test: the default is for a user who waits, and a slow machine must not fail here.
CHECK: Final = str(PATIENCE / 3)
# ATTN_TIMEOUT of a fake child that is to be met by the limit: time enough to start two Pythons before.
SHORT: Final = "6"
