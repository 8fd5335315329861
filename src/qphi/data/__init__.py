"""Reading data: built-in sets, folders of pictures, NumPy and idx files."""

from qphi.data.sources import Dataset, builtin_names, load

__all__ = ["Dataset", "builtin_names", "load"]
