"""Points, boxes, IoU and target assignment: pure tensor functions with fixed shapes, which import nothing but torch."""
