"""What ways of pruning are made of: scopes of ranking, and penalties that draw weights to zero before they are pruned."""
