"""Where images live, and who owns them."""
