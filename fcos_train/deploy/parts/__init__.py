"""What all deployment targets share: descriptions, input rules, sessions, COCO numbers and accuracy comparison."""
