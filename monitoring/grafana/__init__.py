"""Grafana: dashboards made from the panel list, and how the console shows single panels of them."""
