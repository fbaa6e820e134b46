"""Keyed codes, and triggers that also hold against REPLACE and guard the head.

SQLite makes the table anew for a new column, so its triggers go and come.
"""

from __future__ import annotations

from importlib import import_module

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

before = import_module("console.audit.migrations.0002_append_only")

FORBID = {
    "sqlite": [
        # REPLACE deletes the row in its way without asking the triggers for deletes; it may name the hidden rowid.
        """CREATE TRIGGER audit_entry_no_replace BEFORE INSERT ON audit_entry
           WHEN EXISTS (SELECT 1 FROM audit_entry WHERE seq = NEW.seq OR rowid = NEW.rowid)
           BEGIN SELECT RAISE(ABORT, 'audit entries cannot be changed'); END""",
        """CREATE TRIGGER audit_head_forward BEFORE UPDATE ON audit_head
           WHEN NEW.id IS NOT OLD.id OR NEW.seq <= OLD.seq
             OR NOT EXISTS (SELECT 1 FROM audit_entry WHERE seq = NEW.seq AND hash = NEW.hash)
           BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot be moved'); END""",
        """CREATE TRIGGER audit_head_no_delete BEFORE DELETE ON audit_head
           BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot be deleted'); END""",
        """CREATE TRIGGER audit_head_no_replace BEFORE INSERT ON audit_head
           WHEN NEW.seq <> 0 OR EXISTS (SELECT 1 FROM audit_head)
           BEGIN SELECT RAISE(ABORT, 'the head of the audit log cannot be replaced'); END""",
    ],
    "postgresql": [
        """CREATE FUNCTION audit_head_forward() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN
             IF NEW.id <> OLD.id OR NEW.seq <= OLD.seq
                OR NOT EXISTS (SELECT 1 FROM audit_entry WHERE seq = NEW.seq AND hash = NEW.hash) THEN
               RAISE EXCEPTION 'the head of the audit log cannot be moved';
             END IF;
             RETURN NEW;
           END $$""",
        """CREATE FUNCTION audit_head_stays() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'the head of the audit log cannot be deleted or replaced'; END $$""",
        """CREATE TRIGGER audit_head_forward BEFORE UPDATE ON audit_head
           FOR EACH ROW EXECUTE FUNCTION audit_head_forward()""",
        """CREATE TRIGGER audit_head_no_delete BEFORE DELETE ON audit_head
           FOR EACH ROW EXECUTE FUNCTION audit_head_stays()""",
        """CREATE TRIGGER audit_head_no_truncate BEFORE TRUNCATE ON audit_head
           FOR EACH STATEMENT EXECUTE FUNCTION audit_head_stays()""",
        """CREATE TRIGGER audit_head_begins BEFORE INSERT ON audit_head
           FOR EACH ROW WHEN (NEW.seq <> 0 OR NEW.id <> 1) EXECUTE FUNCTION audit_head_stays()""",
    ],
}
ALLOW = {
    "sqlite": [
        "DROP TRIGGER audit_entry_no_replace",
        "DROP TRIGGER audit_head_forward",
        "DROP TRIGGER audit_head_no_delete",
        "DROP TRIGGER audit_head_no_replace",
    ],
    "postgresql": [
        "DROP TRIGGER audit_head_begins ON audit_head",
        "DROP TRIGGER audit_head_no_truncate ON audit_head",
        "DROP TRIGGER audit_head_no_delete ON audit_head",
        "DROP TRIGGER audit_head_forward ON audit_head",
        "DROP FUNCTION audit_head_stays",
        "DROP FUNCTION audit_head_forward",
    ],
}


def forbid_of_before(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    before.forbid(apps, schema_editor)


def allow_of_before(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    before.allow(apps, schema_editor)


def forbid(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in FORBID[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def allow(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in ALLOW[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_entry_names")]
    operations = [
        migrations.RunPython(allow_of_before, forbid_of_before),
        migrations.AddField("entry", "mac", models.CharField(blank=True, default="", max_length=64), preserve_default=False),
        migrations.AddField("head", "keyed_from", models.BigIntegerField(null=True)),
        migrations.RunPython(forbid_of_before, allow_of_before),
        migrations.RunPython(forbid, allow),
    ]
