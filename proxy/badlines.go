package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// What is kept of refused lines.
const (
	badLinesKept    = 100
	badLineMaxBytes = 200
)

// badLines are the last refused lines. When there are too many, the reason that has
// most of them gives up its oldest: one sender of many does not push out what others
// have sent.
type badLines struct {
	mu    sync.Mutex
	kept  [numReasons][]keptLine // each the oldest first
	total int
	next  uint64 // number of the next
}

// A keptLine is a bad line with its place in the order of all.
type keptLine struct {
	BadLine
	number uint64
}

// add keeps a copy of the first bytes of ln.
func (b *badLines) add(at time.Time, p line.Protocol, why reason, peer string, ln []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text []byte
	if b.total == badLinesKept {
		text = b.giveUp()
	}
	text = append(text, ln[:min(len(ln), badLineMaxBytes)]...)
	b.kept[why] = append(b.kept[why], keptLine{BadLine{Time: at, Protocol: p.String(), Reason: why.String(), Peer: peer, Line: text}, b.next})
	b.next++
	b.total++
}

// giveUp drops the oldest line of the reason that has most, and returns its memory.
func (b *badLines) giveUp() []byte {
	most := &b.kept[0]
	for why := range b.kept {
		if len(b.kept[why]) > len(*most) {
			most = &b.kept[why]
		}
	}
	text := (*most)[0].Line
	*most = slices.Delete(*most, 0, 1)
	b.total--
	return text[:0]
}

// list returns copies, the newest first.
func (b *badLines) list() []BadLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Concat(b.kept[:]...)
	slices.SortFunc(all, func(x, y keptLine) int { return int(y.number - x.number) })
	out := make([]BadLine, len(all))
	for i, kept := range all {
		out[i] = kept.BadLine
		out[i].Line = slices.Clone(kept.Line)
	}
	return out
}
