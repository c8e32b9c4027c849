"""The image starts this as `python -I -S /opt/attn/entrypoint/__main__.py`.

The two options keep PYTHONPATH, the working directory and site-packages out, so that neither a user's own `entrypoint`
folder nor a slow `.pth` file stands in the way. By the name of its folder Python would start it through `runpy`.
"""

import gc
import os
import sys

if not __package__:
    gc.disable()  # a start lives for milliseconds, or waits for its children: there is nothing to collect
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

try:
    from entrypoint.main import main

    code = main(sys.argv[1:])
except Exception as error:  # noqa: BLE001  (whatever it is, the user gets a code and may go past it)
    from entrypoint.broken import go_past

    code = go_past(error, sys.argv[1:])
sys.exit(code)
