package proxy

import (
	"bytes"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// batchSize is the capacity of a batch in bytes. What one read of a busy stream
// brings, of 112 KiB, leaves in one batch and one record of the store, where its lines
// grow by no more than a seventh.
const batchSize = 160 << 10

// batchFull is the length at which a batch is handed over: the longest line
// still fits behind it, so that appending allocates nothing.
const batchFull = batchSize - line.MaxLen - 1

// mergeSpan bounds how far apart the first lines of two merged batches may be. A
// batch is judged by its oldest line, so this is how much too early a line may be
// found to have waited for 10 s.
const mergeSpan = 100 * time.Millisecond

// A batch holds whole lines of one protocol, each ended by '\n'. It has one
// owner at a time: an ingest fills it, a queue keeps it, an upstream sends it,
// and each hands it over for good.
type batch struct {
	buf   []byte
	lines int
	born  time.Time // arrival of the oldest line

	// names is what the lines that carry a name were named by; nil where no line is bound to
	// a claim. StatsD leaves only while that is valid.
	names *rewriters

	// unnamed marks lines that wait for a name: checked, not yet rewritten.
	unnamed bool

	// parked marks lines that have waited for their claim to be renewed.
	parked bool
}

var batches = sync.Pool{New: func() any { return &batch{buf: make([]byte, 0, batchSize)} }}

// newBatch returns an empty batch.
func newBatch(born time.Time, names *rewriters, unnamed bool) *batch {
	b := batches.Get().(*batch)
	b.born, b.names, b.unnamed = born, names, unnamed
	return b
}

// free gives b back; nobody may use it afterwards.
func (b *batch) free() {
	if cap(b.buf) != batchSize {
		return // shrunk, or grown by a line that waits for a name and is too long
	}
	*b = batch{buf: b.buf[:0]}
	batches.Put(b)
}

// merge appends the lines of other, which waits in the same list and which it takes, and
// says whether it did: only where they were named alike, came together, and fit into one
// buffer.
func (b *batch) merge(other *batch) bool {
	if b.names != other.names || other.born.Sub(b.born) > mergeSpan || len(b.buf)+len(other.buf) > cap(b.buf) {
		return false
	}
	b.buf = append(b.buf, other.buf...)
	b.lines += other.lines
	other.free()
	return true
}

// shrink gives a buffer that is not nearly full for one that fits.
func (b *batch) shrink() {
	if len(b.buf) > cap(b.buf)/8*7 {
		return
	}
	large := batch{buf: b.buf}
	b.buf = bytes.Clone(b.buf)
	large.free()
}

// tooOld says whether the lines, of StatsD, may not leave any more.
func (b *batch) tooOld(now time.Time) bool { return now.Sub(b.born) > statsdMaxAge }

// cut removes the first n bytes, which hold the given number of lines.
func (b *batch) cut(n, lines int) {
	b.buf = b.buf[:copy(b.buf, b.buf[n:])]
	b.lines -= lines
}

// split takes the lines for which want holds out of b, into a batch like it.
func (b *batch) split(want func(ln []byte) bool) *batch {
	out := newBatch(b.born, b.names, b.unnamed)
	kept := b.buf[:0]
	for rest := b.buf; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if want(rest[:n]) {
			out.buf = append(out.buf, rest[:n]...)
			out.lines++
		} else {
			kept = append(kept, rest[:n]...)
		}
		rest = rest[n:]
	}
	b.buf = kept
	b.lines -= out.lines
	return out
}
