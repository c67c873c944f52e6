package store

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// recent is a copy of what was put last, for destinations that are sent it soon: that is
// cheaper than reading and checking its file.
type recent struct {
	chunks [16]records.Chunk
	last   int
	asked  bool // for the last: it is shared, and what is put next is apart from it
}

// put adds what was put.
func (r *recent) put(s records.Span, lines []byte, born time.Time) {
	if r.asked || !r.chunks[r.last].Append(s, lines, born) {
		r.last = (r.last + 1) % len(r.chunks)
		r.chunks[r.last].Free()
		r.chunks[r.last].Append(s, lines, born)
	}
	r.asked = false
}

// take gives c the beginning of what it spans; false: it is not there. It stays there for
// others, unless there are none: a buffer that is soon used again is still in the cache.
func (r *recent) take(c *records.Chunk, others bool) bool {
	for i := range r.chunks {
		switch from := &r.chunks[i]; {
		case !from.Begins(c.Span):
		case others:
			c.Share(from)
			r.asked = r.asked || i == r.last
			return true
		default:
			c.Free()
			*c, *from = *from, records.Chunk{}
			return true
		}
	}
	return false
}
