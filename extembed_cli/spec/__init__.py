"""The spec of a job: its tables, types and checks, and how it is loaded from TOML or flags."""
