"""The container side of axolotl-attn: it proves that attention works here, reports, and becomes the user's command.

The parent process (every module directly in this package) uses the standard library only and never imports torch.
The measuring child is `entrypoint.probe`; the two talk through the lines defined in `entrypoint.events`.
"""
