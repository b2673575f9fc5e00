import type { FunctionComponent } from 'preact';
import { ActivityScreen } from './screens/activity.tsx';
import { AirGapScreen } from './screens/air-gap.tsx';
import { ImagesScreen } from './screens/images.tsx';
import { NowScreen } from './screens/now.tsx';
import { OverviewScreen } from './screens/overview.tsx';
import { TenantsScreen } from './screens/tenants.tsx';
import { UpkeepScreen } from './screens/upkeep.tsx';
import { UpstreamsScreen } from './screens/upstreams.tsx';
import { WhyScreen } from './screens/why.tsx';

export interface Screen {
  /** In the address. */
  readonly name: string;
  readonly label: string;
  readonly content: FunctionComponent;
}

/** In the order in which people need them. */
export const SCREENS: readonly Screen[] = [
  { name: 'overview', label: 'Overview', content: OverviewScreen },
  { name: 'now', label: 'Now', content: NowScreen },
  { name: 'why', label: 'Why', content: WhyScreen },
  { name: 'images', label: 'Images', content: ImagesScreen },
  { name: 'upstreams', label: 'Upstreams', content: UpstreamsScreen },
  { name: 'tenants', label: 'Tenants', content: TenantsScreen },
  { name: 'air-gap', label: 'Air gap', content: AirGapScreen },
  { name: 'upkeep', label: 'Upkeep', content: UpkeepScreen },
  { name: 'activity', label: 'Activity', content: ActivityScreen },
];
