"""What ends a job early, and the exit codes by which a scheduler tells why.

| code | says | what to do |
|---|---|---|
| 0 | the job is done | |
| 2 | an option, a file or a disk is wrong; one line says which | a person must act |
| 75 | stopped after saving, or another process was lost | start the same command |
| 134 | the first process was lost, and JAX's own service saw it sooner | the same |

75 is EX_TEMPFAIL of sysexits.h, "try again later". Not 143, which shells report for a
program that SIGTERM has killed: that one may have saved nothing.
"""

DONE = 0
REFUSED = 2
TRY_AGAIN = 75


class JobError(Exception):
    """Something that a person must change; its text is one line."""


def one_line(error: BaseException) -> str:
    """Returns the first line of an error that says anything, long ones cut inside."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-190:]}"
