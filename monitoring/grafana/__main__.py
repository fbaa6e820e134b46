"""`python -m monitoring.grafana`: writes the dashboards that docker/grafana provisions."""

from __future__ import annotations

import json
from pathlib import Path

from django.conf import settings

FOLDER = Path(__file__).resolve().parent.parent.parent / "docker/grafana/dashboards"


def texts() -> dict[str, str]:
    """File name -> content, in English."""
    from django.utils.translation import override

    from monitoring.grafana.dashboards import dashboards

    with override("en"):
        return {name: json.dumps(one, indent=2) + "\n" for name, one in dashboards().items()}


def main() -> None:
    settings.configure(USE_I18N=False)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
