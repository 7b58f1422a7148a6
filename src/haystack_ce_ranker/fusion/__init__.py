"""Lists of scores to one ranking: normalize, weigh, join; and how to find the weights."""
