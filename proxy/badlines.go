package proxy

import (
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// What is kept of refused lines.
const (
	badLinesKept    = 100
	badLineMaxBytes = 200
)

// badLines is a ring of the last refused lines.
type badLines struct {
	mu   sync.Mutex
	ring [badLinesKept]BadLine
	next int // index of the oldest, which is overwritten next
	n    int
}

// add keeps a copy of the first bytes of ln.
func (r *badLines) add(at time.Time, p line.Protocol, why reason, peer string, ln []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.ring[r.next]
	*slot = BadLine{
		Time: at, Protocol: p.String(), Reason: why.String(), Peer: peer,
		Line: append(slot.Line[:0], ln[:min(len(ln), badLineMaxBytes)]...),
	}
	r.next = (r.next + 1) % badLinesKept
	r.n = min(r.n+1, badLinesKept)
}

// list returns copies, the newest first.
func (r *badLines) list() []BadLine {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]BadLine, 0, r.n)
	for i := range r.n {
		b := r.ring[(r.next-1-i+2*badLinesKept)%badLinesKept]
		b.Line = append([]byte(nil), b.Line...)
		out = append(out, b)
	}
	return out
}
