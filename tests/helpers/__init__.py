"""Helpers of several test files: small worlds, reference loops, and runs with faults."""
