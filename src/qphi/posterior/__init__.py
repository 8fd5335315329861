"""What a user holds at the end of door 1: in memory, in a folder, and as pictures."""

from qphi.posterior.posterior import Posterior, posterior_from

__all__ = ["Posterior", "posterior_from"]
