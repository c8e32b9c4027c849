"""`python -P -m attn_matrix`: see `attn_matrix.cli`."""

import sys

from attn_matrix.cli import main

sys.exit(main())
