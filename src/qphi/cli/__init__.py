"""The command `qphi`. Nothing heavy is imported before a command runs, so that `qphi --help` is quick."""
