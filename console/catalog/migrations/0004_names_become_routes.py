"""What answered to a model's name so far becomes the one arm of a route of that name."""

from __future__ import annotations

from django.db import migrations


def make_routes(apps, schema_editor):
    Deployment = apps.get_model("catalog", "Deployment")
    for revision in apps.get_model("catalog", "Revision").objects.all():
        Deployment.objects.create(revision=revision)
    for model in apps.get_model("catalog", "ServedModel").objects.exclude(current=None):
        route = apps.get_model("catalog", "Route").objects.create(name=model.name, version=1)
        apps.get_model("catalog", "Arm").objects.create(route=route, revision_id=model.current_id, weight=100)
        Deployment.objects.filter(revision_id=model.current_id).update(wanted="loaded")


class Migration(migrations.Migration):

    dependencies = [("catalog", "0003_routes_deployments_certificates")]

    operations = [migrations.RunPython(make_routes, migrations.RunPython.noop)]
