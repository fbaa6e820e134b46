from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0007_file_check'),
    ]

    operations = [
        migrations.AddField(
            model_name='deployment',
            name='failure',
            field=models.CharField(blank=True, default='', max_length=8),
            preserve_default=False,
        ),
    ]
