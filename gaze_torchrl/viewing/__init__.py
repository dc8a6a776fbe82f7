"""A run as one page of HTML: curves, episodes, triplets, configuration."""
