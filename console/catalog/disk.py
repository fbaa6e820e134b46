"""The disk that revisions take: each folder once, however many revisions run from it."""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.db.models import Count, Max

from console.catalog.models import Deployment, Revision


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes of files, by model and in all."""

    by_model: dict[int, int]
    num_bytes: int
    num_folders: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    used_bytes: int  # by the files of all revisions
    free_bytes: int  # that the disk of DATA_DIR still has
    num_folders: int

    @property
    def used_percent(self) -> float:
        return 100 * self.used_bytes / max(1, self.used_bytes + self.free_bytes)


def disk_use() -> DiskUse:
    root, all_models = Path(settings.DATA_DIR), taken()
    free = shutil.disk_usage(root if root.exists() else root.parent).free
    return DiskUse(all_models.num_bytes, free, all_models.num_folders)


def taken() -> Taken:
    """What the files of all revisions take."""
    made = Revision.objects.order_by().aggregate(Count("pk"), Max("created_at"))
    deleted = Deployment.objects.aggregate(Count("files_deleted_at"), Max("files_deleted_at"))
    return _taken((*made.values(), *deleted.values()))


@lru_cache(maxsize=1)
def _taken(_at: Hashable) -> Taken:
    """Revisions do not change, so that their long manifests are read again only when there are others."""
    sizes: dict[str, int] = {}
    owners: dict[str, set[int]] = {}
    revisions = Revision.objects.filter(deployment__files_deleted_at=None).order_by()
    for model, folder, files in revisions.values_list("model", "folder", "files").iterator():
        owners.setdefault(folder, set()).add(model)
        if folder not in sizes:
            sizes[folder] = sum(file["size"] for file in files.values())
    by_model: dict[int, int] = {}
    for folder, models in owners.items():
        for model in models:
            by_model[model] = by_model.get(model, 0) + sizes[folder]
    return Taken(by_model, sum(sizes.values()), len(sizes))
