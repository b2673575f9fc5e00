import { describe, expect, it } from 'vitest';
import { type Freshness, freshnessOf, type PullRule } from './freshness.ts';

const DEFAULTING: PullRule = { pullPolicy: undefined, freshForMs: 60_000 };

describe('the action for a tag', () => {
  const cases: readonly [string, string, number | undefined, Partial<PullRule>, Freshness][] = [
    ['latest is always asked for', 'latest', 0, {}, 'ask'],
    ['latest follows a policy that is set', 'latest', 1e9, { pullPolicy: 'IfNotPresent' }, 'serve'],
    ['another is fresh for a while', '1.0', 59_999, {}, 'serve'],
    ['and then asked for', '1.0', 60_000, {}, 'ask'],
    ['for ever, if so set', '1.0', 1e15, { freshForMs: Number.POSITIVE_INFINITY }, 'serve'],
    ['or served while it is asked for', '1.0', 60_000, { staleWhileRevalidateMs: 1_000 }, 'serve-and-ask'],
    ['but not for long', '1.0', 61_000, { staleWhileRevalidateMs: 1_000 }, 'ask'],
    ['Always asks however young it is', '1.0', 0, { pullPolicy: 'Always' }, 'ask'],
    ['IfNotPresent asks for what is not held', '1.0', undefined, { pullPolicy: 'IfNotPresent' }, 'ask'],
    ['Never never asks', 'latest', undefined, { pullPolicy: 'Never' }, 'never'],
    ['an age from the future says nothing', '1.0', -1, {}, 'ask'],
  ];
  it.each(cases)('%s', (_, tag, ageMs, policy, expected) => {
    expect(freshnessOf(tag, ageMs, { ...DEFAULTING, ...policy })).toBe(expected);
  });
});
