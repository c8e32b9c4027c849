"""Stand-ins for kernel packages that cannot run here: their signatures, their conventions, attention by einsum.

Each function has the arguments of the real one, so a wrong name is a TypeError; it refuses what the real one refuses;
and it computes what the arguments mean in that package, so a wrong convention is a wrong result. Gradients come from
autograd, except where the package has none.
"""
