import { bytesText } from '../format.ts';

export interface DayBarsProps {
  /** What the picture shows; its numbers are in a table beside it. */
  readonly label: string;
  /** ISO dates, in order. */
  readonly days: readonly string[];
  /** Two at most: they differ by colour and by place. */
  readonly series: readonly { readonly label: string; readonly bytes: readonly number[] }[];
}

/** In units of the picture, which is stretched to the width there is: a day, its bars, and the height of the largest. */
const DAY = 12;
const BARS = 9;
const HEIGHT = 100;
/** Days that are there at least, so that the bars of the first one do not fill the picture. */
const MIN_DAYS = 14;
/** Even of the smallest number something is seen. */
const MIN_BAR = 0.75;

/** Bars for bytes by day, in the colours of the legend. */
export function DayBars({ label, days, series }: DayBarsProps) {
  const highest = topOf(Math.max(1, ...series.flatMap(({ bytes }) => bytes)));
  const width = Math.max(MIN_DAYS, days.length) * DAY;
  const barWidth = BARS / series.length;
  return (
    <figure class="bars">
      <ul class="legend" aria-hidden="true">
        {series.map(({ label: text }, at) => (
          <li key={text} class={`series-${at}`}>
            {text}
          </li>
        ))}
      </ul>
      <div class="scale" aria-hidden="true">
        <span>{bytesText(highest)}</span>
        <span>{bytesText(highest / 2)}</span>
        <span>0</span>
      </div>
      <svg viewBox={`0 0 ${width} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
        {[0, HEIGHT / 2, HEIGHT].map(y => (
          <line key={y} x1={0} x2={width} y1={y} y2={y} />
        ))}
        {series.map(({ label: text, bytes }, at) =>
          bytes.map((value, day) => {
            const height = value === 0 ? 0 : Math.max(MIN_BAR, (value / highest) * HEIGHT);
            return (
              <rect
                key={`${text} ${days[day]}`}
                class={`series-${at}`}
                x={width - (days.length - day) * DAY + at * barWidth + (DAY - BARS) / 2}
                y={HEIGHT - height}
                width={barWidth - 0.5}
                height={height}
              >
                <title>{`${days[day]}: ${text} ${bytesText(value)}`}</title>
              </rect>
            );
          }),
        )}
      </svg>
      <div class="dates" aria-hidden="true">
        <span>{days.length >= MIN_DAYS ? days[0] : ''}</span>
        <span>{days.at(-1)} (UTC)</span>
      </div>
    </figure>
  );
}

/** The next power of two, in which half of it is a number without a rest too. */
function topOf(bytes: number): number {
  return 2 ** Math.ceil(Math.log2(bytes));
}
