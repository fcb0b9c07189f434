"""Errors of Spark as ours, with what to set."""

from __future__ import annotations

import re

from extembed_cli.errors import DISK_FULL, ExtembedError, InternalError, ResourceError, SpecError, first_line

_CURES = {
    "No space left": "A disk is full. Let spark.local.dir name folders with more room",
    "maxResultSize": "The ids of a job come to the driver: set spark.driver.maxResultSize=0",
    "(Lost task|[Ee]xecutor).*OutOfMemoryError|exit code 137|ExecutorLostFailure|SIGKILL|crashed|worker exited": (
        "Give executors more memory (--conf spark.executor.memory=..., --conf spark.executor.memoryOverhead=...), or "
        "use more --buckets"
    ),
    "OutOfMemoryError": "Give the driver more memory (--conf spark.driver.memory=...)",
    "Py4JNetworkError|Answer from Java side is empty|Connection refused": (
        "The driver's Java process has ended, as it does when the machine lacks memory. Run again, with more memory"
    ),
}
"""What to do about errors of Spark, by patterns of what they say, of which the first counts"""


_REASONS = ("Reason: (.*)", r'Exception in thread "main" [\w.$]+: (.*)', r"^: [\w.$]+: (.*)")
"""Where Java says why Spark does not start, the most telling first"""


def does_not_start(error: Exception, said: str) -> SpecError:
    """Return the error of a session that cannot be started; `said` is what Java has written to stderr."""
    text = f"{said}\n{error}"
    found = (re.search(pattern, text, re.MULTILINE) for pattern in _REASONS)
    reason = next((match[1] for match in found if match), first_line(error))
    return SpecError(f"--engine spark: Spark does not start: {reason.rstrip('.')}; -v -v shows what it says")


def as_ours(error: BaseException) -> BaseException:
    """Return an error of Spark as one of ours: those of memory and disks say what to set, all else is a bug."""
    if isinstance(error, ExtembedError) or not isinstance(error, Exception):
        return error
    if isinstance(error, OSError) and error.errno in DISK_FULL:  # of the driver
        return error
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line[:300] for line in lines if line and not line.startswith(("at ", "File "))]
    missing = next((line for line in lines if "ModuleNotFoundError" in line), None)
    if missing is not None:
        return SpecError(
            f"--engine spark: executors lack a library ({missing}). Ship the environment with the job "
            "(docs/how-to/spark.md, `On a cluster`), or set PYSPARK_PYTHON to a Python that has it"
        )
    for pattern, cure in _CURES.items():
        reason = next((line for line in lines if re.search(pattern, line)), None)
        if reason is not None:
            return ResourceError(f"Spark gave up: {reason}. {cure}")
    last = next((line for line in reversed(lines) if "Error" in line), first_line(error))
    return InternalError(f"a Spark task failed: {last}")
