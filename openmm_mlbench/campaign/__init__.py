"""Campaigns: the matrix models x systems x seeds, from data to the report, on one machine or a cluster."""
