"""Jobs that the commands call: run, plan, check, train a model, write a sample."""
