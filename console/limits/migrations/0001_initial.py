
import django.db.models.deletion
import django.db.models.expressions
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0001_initial'),
        ('keys', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Limit',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('budget_tokens', models.PositiveBigIntegerField()),
                ('used_tokens', models.PositiveBigIntegerField(default=0)),
                ('reserved_tokens', models.PositiveBigIntegerField(default=0)),
                ('key', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='limit', to='keys.apikey')),
            ],
        ),
        migrations.CreateModel(
            name='Ticket',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('request_id', models.CharField(max_length=100, unique=True)),
                ('owner', models.CharField(max_length=100)),
                ('model', models.CharField(blank=True, max_length=200)),
                ('revision', models.CharField(blank=True, max_length=200)),
                ('endpoint', models.CharField(blank=True, max_length=100)),
                ('transport', models.CharField(blank=True, choices=[('rest', 'Rest'), ('sse', 'Sse'), ('websocket', 'Websocket')], max_length=20)),
                ('prompt_tokens', models.PositiveBigIntegerField()),
                ('output_tokens', models.PositiveBigIntegerField()),
                ('server', models.CharField(db_index=True, max_length=40)),
                ('created_at', models.DateTimeField()),
                ('key', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, to='keys.apikey')),
                ('limit', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, to='limits.limit')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='accounts.team')),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.AddConstraint(
            model_name='limit',
            constraint=models.CheckConstraint(condition=models.Q(('budget_tokens__gte', django.db.models.expressions.CombinedExpression(models.F('used_tokens'), '+', models.F('reserved_tokens')))), name='never_overspent'),
        ),
    ]
