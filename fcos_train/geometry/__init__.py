"""Points, boxes, overlaps and target assignment: pure tensor functions of fixed shapes (torch only)."""
