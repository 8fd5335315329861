"""The one-page report of a run, and the pictures in it."""

from qphi.report.of_posterior import write_posterior_report
from qphi.report.of_table import write_table_report
from qphi.report.page import write_report
from qphi.report.pictures import image_grid, save_png, to_pixels

__all__ = ["image_grid", "save_png", "to_pixels", "write_posterior_report", "write_report", "write_table_report"]
