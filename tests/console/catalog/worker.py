"""A process that does what a runner does: `python -m tests.console.catalog.worker` with DATA_DIR set.

Brings back what a dead one left, and ends when nothing is queued any more.
"""

from __future__ import annotations

import django

if __name__ == "__main__":
    django.setup()

    from console.jobs.execute import run, take
    from console.jobs.models import Job
    from console.jobs.recovery import recover

    recover()
    print("begun", flush=True)
    while (waiting := Job.objects.filter(state=Job.State.QUEUED).first()) is not None:
        if (job := take(waiting.pk)) is not None:
            run(job)
