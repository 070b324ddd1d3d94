"""From bytes to pixels and views: decoders, readers, ranges, checks, augmentations."""
