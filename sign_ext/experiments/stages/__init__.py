"""Stages, the units of work that experiments share, and the runner that keeps their outcomes.

Imports no recipe, and not the planner.
"""
