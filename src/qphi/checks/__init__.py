"""Is it right? What can be measured about a fit: weights, tails, modes, chains."""
