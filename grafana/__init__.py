"""Grafana's dashboards: made here, kept as files in `dashboards`, read by Grafana through `provisioning`.

`python -m grafana.build` writes the files anew. The service needs nothing of this.
"""
