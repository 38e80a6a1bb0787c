"""Passes and checks joined: verified results, certificates, pipelines, timings."""
