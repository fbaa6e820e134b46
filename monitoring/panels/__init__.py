"""Panels: one list, asked of Prometheus, of Grafana through Prometheus, or of what this process recorded."""
