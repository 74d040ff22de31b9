"""What every export target shares: descriptions, input rules, sessions, COCO numbers, accuracy comparison."""
