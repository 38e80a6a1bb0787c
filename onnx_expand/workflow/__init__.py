"""Combine passes and checks: verified results, certificates, pipelines, timings."""
