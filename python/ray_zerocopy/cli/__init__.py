"""``python -m ray_zerocopy VERB``: one file a verb."""
