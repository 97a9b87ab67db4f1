"""One line of the code wrong at a time: a fast test must notice each."""
