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
	mu   sync.Mutex
	kept []keptLine      // the oldest first
	of   [numReasons]int // how many of them
}

type keptLine struct {
	BadLine
	why reason
}

// add keeps a copy of the first bytes of ln.
func (b *badLines) add(at time.Time, p line.Protocol, why reason, peer string, ln []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text []byte
	if len(b.kept) == badLinesKept {
		text = b.giveUp()
	}
	text = append(text, ln[:min(len(ln), badLineMaxBytes)]...)
	b.kept = append(b.kept, keptLine{BadLine{Time: at, Protocol: p.String(), Reason: why.String(), Peer: peer, Line: text}, why})
	b.of[why]++
}

// giveUp drops the oldest line of the reason that has most, and returns its memory.
func (b *badLines) giveUp() []byte {
	most := slices.Index(b.of[:], slices.Max(b.of[:]))
	i := slices.IndexFunc(b.kept, func(k keptLine) bool { return int(k.why) == most })
	text := b.kept[i].Line
	b.kept = slices.Delete(b.kept, i, i+1)
	b.of[most]--
	return text[:0]
}

// list returns copies, the newest first.
func (b *badLines) list() (out []BadLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range slices.Backward(b.kept) {
		k.Line = slices.Clone(k.Line)
		out = append(out, k.BadLine)
	}
	return out
}
