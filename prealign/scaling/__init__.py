"""How the loss of several methods scales: ladders of runs, fitted laws, predictions, target tokens saved."""
