"""The name by which Celery finds its application: `celery -A console.celery worker`."""

from __future__ import annotations

from console.jobs.celery_app import app

__all__ = ["app"]
