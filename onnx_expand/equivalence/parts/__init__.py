"""Parts in which two models differ: found, compared with forward error bounds, and proven."""
