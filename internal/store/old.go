package store

// adoptOld takes what the version before left.
func (s *Store) adoptOld(at Places) error { return nil }
