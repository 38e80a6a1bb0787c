"""Builders, generators and judges that the tests share, and the tools of the Makefile."""
