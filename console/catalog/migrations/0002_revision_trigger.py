"""The database itself refuses to change a revision.

On SQLite a later migration that alters `catalog_revision` makes the table anew and loses the
trigger: such a migration must run `create` again.
"""

from django.db import migrations

SQLITE = """
CREATE TRIGGER catalog_revision_is_immutable BEFORE UPDATE ON catalog_revision
BEGIN SELECT RAISE(ABORT, 'revisions do not change'); END
"""
POSTGRES = """
CREATE FUNCTION catalog_refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'revisions do not change'; END $$;
CREATE TRIGGER catalog_revision_is_immutable BEFORE UPDATE ON catalog_revision
FOR EACH ROW EXECUTE FUNCTION catalog_refuse_change();
"""


def create(apps, schema_editor):
    schema_editor.execute(POSTGRES if schema_editor.connection.vendor == "postgresql" else SQLITE)


def drop(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER catalog_revision_is_immutable ON catalog_revision")
        schema_editor.execute("DROP FUNCTION catalog_refuse_change()")
    else:
        schema_editor.execute("DROP TRIGGER catalog_revision_is_immutable")


class Migration(migrations.Migration):

    dependencies = [("catalog", "0001_initial")]

    operations = [migrations.RunPython(create, drop)]
