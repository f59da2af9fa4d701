"""The paper's tables and figures, a recipe each, over the planner and the stages; its numbers."""
