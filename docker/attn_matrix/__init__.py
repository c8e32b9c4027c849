"""The host side of axolotl-attn: images.yaml parsed once, then planned, rendered, built and run.

Four rooms, each of which imports only those before it: `matrix` (what images.yaml says), `rendered` (what is made from
it), `host` (what this machine offers; `engine` is the only door to other programs) and `commands`. Nothing here imports
torch.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
