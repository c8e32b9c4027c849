"""The collectives' child: one rank that all-reduces, all-gathers and reduce-scatters integers with the others.

It needs torch, so only a child of the parent, or one of a test, imports anything but `entrypoint.collective.events`.
"""
