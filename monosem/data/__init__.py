"""What goes in, and how it is corrupted: data sets, views, label and input noise, feature sets."""
