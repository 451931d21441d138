"""What users test their own workflows with: `simulate`, and what belongs to it."""
