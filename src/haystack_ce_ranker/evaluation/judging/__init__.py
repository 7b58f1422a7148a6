"""From what was seen to what to do: measures, tests, segments, the verdict."""
