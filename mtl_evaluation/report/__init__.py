"""What a person looks at: pages, plots, pictures."""
