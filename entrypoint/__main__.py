"""The image starts this as `python -I -S /opt/attn/entrypoint`.

The two options keep PYTHONPATH, the working directory and site-packages out, so that neither a user's own `entrypoint`
folder nor a slow `.pth` file stands in the way.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

try:
    from entrypoint.main import main

    code = main(sys.argv[1:])
except Exception as error:  # noqa: BLE001  (whatever it is, the user gets a code and may go past it)
    from entrypoint.broken import go_past

    code = go_past(error, sys.argv[1:])
sys.exit(code)
