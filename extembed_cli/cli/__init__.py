"""The command line, the only package that prints or exits: one file per command, with its options, help and call."""
