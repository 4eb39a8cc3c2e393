"""Pictures: of a comparison, of a study, of one of its problems."""
