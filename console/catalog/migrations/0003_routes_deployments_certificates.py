"""Routes, deployments, certificates; a revision's parent and facts.

SQLite makes `catalog_revision` anew for its new columns, which loses the trigger: it is created again.
"""

from importlib import import_module

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

revision_trigger = import_module("console.catalog.migrations.0002_revision_trigger")

CERTIFICATE = {
    "sqlite": """
        CREATE TRIGGER catalog_certificate_is_immutable BEFORE UPDATE ON catalog_certificate
        BEGIN SELECT RAISE(ABORT, 'certificates do not change'); END
    """,
    "postgresql": """
        CREATE TRIGGER catalog_certificate_is_immutable BEFORE UPDATE ON catalog_certificate
        FOR EACH ROW EXECUTE FUNCTION catalog_refuse_change()
    """,
}


def protect_certificates(apps, schema_editor):
    schema_editor.execute(CERTIFICATE[schema_editor.connection.vendor])


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0002_revision_trigger'),
    ]

    operations = [
        migrations.RunPython(revision_trigger.drop, revision_trigger.create),
        migrations.CreateModel(
            name='Route',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64, unique=True, validators=[django.core.validators.RegexValidator('^[a-z0-9][a-z0-9._-]{0,63}\\Z', "A model's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', no sign first.")])),
                ('version', models.PositiveIntegerField(default=0)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.AddField(
            model_name='revision',
            name='facts',
            field=models.JSONField(default=dict),
        ),
        migrations.AddField(
            model_name='revision',
            name='parent',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='children', to='catalog.revision'),
        ),
        migrations.CreateModel(
            name='Certificate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('files_digest', models.CharField(max_length=64)),
                ('parent_digest', models.CharField(max_length=64)),
                ('corpus_digest', models.CharField(max_length=64)),
                ('measured_by', models.JSONField()),
                ('figures', models.JSONField()),
                ('thresholds', models.JSONField()),
                ('has_passed', models.BooleanField()),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('parent', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='catalog.revision')),
                ('revision', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='certificates', to='catalog.revision')),
            ],
            options={
                'ordering': ['-created_at'],
            },
        ),
        migrations.CreateModel(
            name='Deployment',
            fields=[
                ('revision', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='deployment', serialize=False, to='catalog.revision')),
                ('wanted', models.CharField(choices=[('loaded', 'loaded'), ('unloaded', 'unloaded')], default='unloaded', max_length=8)),
                ('is_pinned', models.BooleanField(default=False)),
                ('is_forced', models.BooleanField(default=False)),
                ('idle_seconds', models.PositiveIntegerField(null=True)),
                ('files_deleted_at', models.DateTimeField(null=True)),
                ('state', models.CharField(choices=[('absent', 'not loaded'), ('waiting', 'waits for memory'), ('loading', 'loading'), ('ready', 'ready'), ('unloading', 'unloading'), ('failed', 'failed')], default='absent', max_length=9)),
                ('stage', models.CharField(blank=True, max_length=80)),
                ('fraction', models.FloatField(default=0.0)),
                ('reason', models.TextField(blank=True)),
                ('state_at', models.DateTimeField(auto_now_add=True)),
                ('card', models.JSONField(default=dict)),
                ('memory_bytes', models.BigIntegerField(null=True)),
                ('load_seconds', models.FloatField(null=True)),
                ('last_used_at', models.DateTimeField(null=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('is_forced', True)), fields=('is_forced',), name='one_forced_revision')],
            },
        ),
        migrations.CreateModel(
            name='Arm',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('weight', models.PositiveSmallIntegerField(validators=[django.core.validators.MinValueValidator(0), django.core.validators.MaxValueValidator(100)])),
                ('revision', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='arms', to='catalog.revision')),
                ('route', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='arms', to='catalog.route')),
            ],
            options={
                'ordering': ['id'],
                'constraints': [models.UniqueConstraint(fields=('route', 'revision'), name='one_arm_per_revision')],
            },
        ),
        migrations.RunPython(revision_trigger.create, revision_trigger.drop),
        migrations.RunPython(protect_certificates, migrations.RunPython.noop),
    ]
