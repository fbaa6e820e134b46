
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0001_initial'),
        ('keys', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='UsageRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('request_id', models.CharField(max_length=100, unique=True)),
                ('owner', models.CharField(max_length=100)),
                ('model', models.CharField(max_length=200)),
                ('revision', models.CharField(max_length=200)),
                ('endpoint', models.CharField(max_length=100)),
                ('transport', models.CharField(blank=True, choices=[('rest', 'Rest'), ('sse', 'Sse'), ('websocket', 'Websocket')], max_length=20)),
                ('outcome', models.CharField(choices=[('finished', 'Finished'), ('cancelled', 'Cancelled'), ('failed', 'Failed')], max_length=20)),
                ('finish_reason', models.CharField(blank=True, max_length=40)),
                ('error_code', models.CharField(blank=True, max_length=60)),
                ('prompt_tokens', models.PositiveBigIntegerField()),
                ('cached_tokens', models.PositiveBigIntegerField(default=0)),
                ('completion_tokens', models.PositiveBigIntegerField()),
                ('num_choices', models.PositiveIntegerField(default=1)),
                ('queue_seconds', models.FloatField(default=0.0)),
                ('ttft_seconds', models.FloatField(null=True)),
                ('total_seconds', models.FloatField(default=0.0)),
                ('end_user', models.CharField(blank=True, max_length=200)),
                ('created_at', models.DateTimeField(db_index=True)),
                ('settled_at', models.DateTimeField(auto_now_add=True)),
                ('key', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='usage', to='keys.apikey')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='usage', to='accounts.team')),
            ],
            options={
                'indexes': [models.Index(fields=['owner', 'created_at'], name='usage_usage_owner_be615b_idx'), models.Index(fields=['team', 'created_at'], name='usage_usage_team_id_dd0481_idx')],
            },
        ),
    ]
