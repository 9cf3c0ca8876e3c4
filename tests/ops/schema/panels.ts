// The parts of a dashboard in Grafana's own types: `panel_<type>` for the panels in use, `dashboard` for all around them.
// Grafana's type of a panel leaves open what depends on its kind; here both come together.
import type {
  AnnotationQuery,
  Dashboard,
  DataSourceRef,
  FieldConfig,
  FieldConfigSource,
  Panel,
  RowPanel,
} from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as bargauge from '@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';
import type * as heatmap from '@grafana/schema/dist/types/raw/composable/heatmap/panelcfg/x/types.gen';
import type * as stat from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as statetimeline from '@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen';
import type * as table from '@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type * as timeseries from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type { Dataquery } from '@grafana/grafana-foundation-sdk/dist/prometheus/types.gen';

interface Defaults<Custom> extends Omit<FieldConfig, 'custom'> {
  custom?: Custom;
}
interface Fields<Custom> extends Omit<FieldConfigSource, 'defaults'> {
  defaults: Defaults<Custom>;
}
interface Query extends Pick<Dataquery, 'expr' | 'editorMode' | 'format' | 'instant' | 'legendFormat' | 'range'> {
  refId: string;
  datasource: DataSourceRef;
}
interface Whole<Kind, Options, Custom> extends Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> {
  type: Kind;
  options: Options;
  fieldConfig: Fields<Custom>;
  targets: Query[];
}
// What the Prometheus datasource reads from an annotation.
interface Annotation extends AnnotationQuery {
  expr: string;
  step?: string;
  titleFormat?: string;
}

export type panel_bargauge = Whole<'bargauge', bargauge.Options, never>;
export type panel_heatmap = Whole<'heatmap', Partial<heatmap.Options>, heatmap.FieldConfig>;
export type panel_stat = Whole<'stat', Partial<stat.Options>, never>;
export type panel_state_timeline = Whole<'state-timeline', statetimeline.Options, statetimeline.FieldConfig>;
export type panel_table = Whole<'table', Partial<table.Options>, table.FieldConfig>;
export type panel_timeseries = Whole<'timeseries', timeseries.Options, timeseries.FieldConfig>;
export interface dashboard extends Omit<Dashboard, 'annotations' | 'panels'> {
  annotations: { list: Annotation[] };
}
export type panel_row = RowPanel;
