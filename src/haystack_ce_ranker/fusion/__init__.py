"""Lists of scores to one ranking: normalise, weigh, join; and how to find the weights."""
