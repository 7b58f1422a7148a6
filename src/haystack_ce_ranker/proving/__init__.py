"""Proves a pipeline that was moved before its file is written: runs it, and measures it beside the old one."""
