from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [("catalog", "0004_names_become_routes")]

    operations = [migrations.RemoveField(model_name="servedmodel", name="current")]
