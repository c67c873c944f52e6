package proxy

import (
	"bytes"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership"
)

// batchSize is the capacity of a batch in bytes: what one read of a busy
// stream brings.
const batchSize = 64 << 10

// batchFull is the length at which a batch is handed over: the longest line
// still fits behind it, so that appending allocates nothing.
const batchFull = batchSize - line.MaxLen - 1

// mergeAge bounds how far apart the first lines of two merged batches may be.
// A batch is judged by its oldest line, so this is how much too early a StatsD
// line may be found too old.
const mergeAge = 100 * time.Millisecond

// A batch holds whole lines of one protocol, each ended by '\n'. It has one
// owner at a time: an ingest fills it, a queue keeps it, an upstream sends it,
// and each hands it over for good.
type batch struct {
	buf   []byte
	lines int
	born  time.Time // arrival of the oldest line

	// claim is what the lines that carry a name were named under; nil where no
	// line is bound to a claim. StatsD leaves only while it is valid.
	claim *membership.Claim

	// unnamed marks lines that wait for a name: checked, not yet rewritten.
	unnamed bool
}

var batches = sync.Pool{New: func() any { return &batch{buf: make([]byte, 0, batchSize)} }}

// newBatch returns an empty batch.
func newBatch(born time.Time, claim *membership.Claim, unnamed bool) *batch {
	b := batches.Get().(*batch)
	b.born, b.claim, b.unnamed = born, claim, unnamed
	return b
}

// free gives b back; nobody may use it afterwards.
func (b *batch) free() {
	if cap(b.buf) != batchSize {
		return // grown by a line that waits for a name and is too long: rare
	}
	*b = batch{buf: b.buf[:0]}
	batches.Put(b)
}

// merge appends the lines of other, which it takes, and says whether it did:
// only where both are of one kind, about one age, and fit into one buffer.
func (b *batch) merge(other *batch) bool {
	if b.claim != other.claim || b.unnamed != other.unnamed ||
		len(b.buf)+len(other.buf) > cap(b.buf) || other.born.Sub(b.born) > mergeAge {
		return false
	}
	b.buf = append(b.buf, other.buf...)
	b.lines += other.lines
	other.free()
	return true
}

// cut removes the first n bytes, which hold the given number of lines.
func (b *batch) cut(n, lines int) {
	b.buf = b.buf[:copy(b.buf, b.buf[n:])]
	b.lines -= lines
}

// keep reduces b to the lines for which want holds, and returns how many went.
func (b *batch) keep(want func(ln []byte) bool) (gone int) {
	kept := b.buf[:0]
	for rest := b.buf; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if want(rest[:n]) {
			kept = append(kept, rest[:n]...)
		} else {
			gone++
		}
		rest = rest[n:]
	}
	b.buf = kept
	b.lines -= gone
	return gone
}

// split takes the lines for which want holds out of b, into a batch like it.
func (b *batch) split(want func(ln []byte) bool) *batch {
	out := newBatch(b.born, b.claim, b.unnamed)
	b.keep(func(ln []byte) bool {
		if !want(ln) {
			return true
		}
		out.buf = append(out.buf, ln...)
		out.lines++
		return false
	})
	return out
}
