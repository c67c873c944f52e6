package inlet

import "bytes"

const (
	maxKept = 4 << 20 // bytes of unfinished input that all connections together may keep
	shown   = 200     // bytes of what was given up, kept to be shown
)

// A tail is what a connection keeps until more arrives. Its reader owns it; the mutex of
// connections guards data and lost.
type tail struct {
	used bool   // there may be something
	data []byte // kept; or the beginning of what was given up
	lost int    // bytes that were given up; 0: none
}

// tailOf copies what s keeps to dst, and returns how much. If that was given up, it is the
// beginning, and lost is the size of the whole.
func (c *connections) tailOf(s *streamReader, dst []byte) (n, lost int) {
	if !s.tail.used {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return copy(dst, s.tail.data), s.tail.lost
}

// keep keeps data for s, instead of what was kept. When all keep too much, the largest tail is
// given up, again and again: it belongs to a line that is nearly too long anyway.
func (c *connections) keep(s *streamReader, data []byte) {
	if !s.tail.used && len(data) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept += len(data) - len(s.tail.data)
	if s.tail.used = len(data) > 0; !s.tail.used || cap(s.tail.data) > 2*len(data)+shown {
		s.tail.data = nil // which is more than is counted
	}
	s.tail.data, s.tail.lost = append(s.tail.data[:0], data...), 0
	for c.kept > maxKept {
		largest := &s.tail
		for r := range c.running {
			if len(r.tail.data) > len(largest.data) {
				largest = &r.tail
			}
		}
		if len(largest.data) <= shown {
			return // that many bytes each is what there may be
		}
		c.kept -= len(largest.data) - shown
		largest.lost, largest.data = len(largest.data), bytes.Clone(largest.data[:shown])
	}
}
