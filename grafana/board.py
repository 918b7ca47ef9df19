"""A whole dashboard: its rows of panels, and what all dashboards have in common.

That is what one chooses (data source, job, instance), where runbooks are, what is marked on the time axis (new
versions, alerts), the links to the other dashboards, and that none is changed in Grafana: `build` writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models import dashboard as grid

from grafana.panels import Panel
from grafana.targets import PROMETHEUS, Prom

TAG = "ytdl"
# Where links to runbooks lead; see `build`.
RUNBOOKS = "/runbooks"
POSTGRES_TYPE = "grafana-postgresql-datasource"
# A version that was not there a little before. Whoever starts the same version again is not marked.
VERSIONS = "count by (version, ytdlp) (ytdl_build_info)"
DEPLOYS = f"{VERSIONS} unless {VERSIONS.removesuffix(')')} offset 5m)"
FIRING = 'ALERTS{alertstate="firing", alertname!="Watchdog"}'


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """`name` is also that of the file; the uid is `ytdl-<name>`. `sql` is for those that ask PostgreSQL."""

    name: str
    title: str
    about: str
    rows: Sequence[Row]
    since: str = "now-6h"
    sql: bool = False

    def build(self, runbooks: str = RUNBOOKS) -> grid.Dashboard:
        made = dashboard.Dashboard(f"ytdl: {self.title}").uid(f"ytdl-{self.name}").description(self.about)
        made = made.tags([TAG]).readonly().timezone("browser").refresh("1m").time(self.since, "now")
        made = made.tooltip(grid.DashboardCursorSync.CROSSHAIR)
        made = made.variables(_variables(runbooks, sql=self.sql)).annotations([_deploys(), _alerts()]).link(_others())
        for row in self.rows:
            made = made.with_row(dashboard.Row(row.title))
            for panel in row.panels:
                made = made.with_panel(panel)
        return _numbered(made.build())


def _numbered(made: grid.Dashboard) -> grid.Dashboard:
    """Links to a panel name it by its number."""
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return made


Variable = builder.Builder[grid.VariableModel]


def _variables(runbooks: str, *, sql: bool) -> list[Variable]:
    postgres = [_source("postgres_datasource", "Postgres data source", POSTGRES_TYPE, "ytdl-postgres")] if sql else []
    return [
        _source("datasource", "Data source", "prometheus", "ytdl-prometheus"),
        *postgres,
        _labels("job", "Job", "label_values(ytdl_build_info, job)"),
        _labels("instance", "Instance", 'label_values(ytdl_build_info{job=~"$job"}, instance)'),
        dashboard.TextBoxVariable("runbooks").label("Runbooks").default_value(runbooks)
        .description("Where the folder of the runbooks can be read."),
    ]  # fmt: skip


def _source(name: str, label: str, kind: str, uid: str) -> Variable:
    """`uid` is that of the one in `provisioning`; whoever has others chooses."""
    chosen = grid.VariableOption(selected=True, text=uid, value=uid)
    return dashboard.DatasourceVariable(name).label(label).type(kind).current(chosen)


def _labels(name: str, label: str, query: str) -> Variable:
    """Asked again when the window changes, for what has been replaced was there in an earlier one."""
    variable = dashboard.QueryVariable(name).label(label).datasource(PROMETHEUS).query(query).definition(query)
    variable = variable.refresh(grid.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(grid.VariableSort.ALPHABETICAL_ASC)
    variable = variable.multi(True).include_all(True).all_value(".+")
    return variable.current(grid.VariableOption(selected=True, text=["All"], value=["$__all"]))


def _deploys() -> builder.Builder[grid.AnnotationQuery]:
    marked = dashboard.AnnotationQuery().name("New versions").datasource(PROMETHEUS).enable(True).icon_color("blue")
    marked = marked.expr(Prom(DEPLOYS).scoped).step("60s")
    return marked.title_format("ytdl {{version}}").text_format("with yt-dlp {{ytdlp}}")


def _alerts() -> builder.Builder[grid.AnnotationQuery]:
    marked = dashboard.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).enable(True).icon_color("red")
    marked = marked.expr(FIRING).step("60s")
    return marked.title_format("{{alertname}}").text_format("{{severity}} {{instance}}").tag_keys("severity")


def _others() -> builder.Builder[grid.DashboardLink]:
    link = dashboard.DashboardLink("Dashboards").type(grid.DashboardLinkType.DASHBOARDS).tags([TAG])
    # Not within the menu that the SDK would put it in.
    return link.as_dropdown(True).include_vars(True).keep_time(True).placement("")
