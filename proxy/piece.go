package proxy

import (
	"bytes"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/journal"
	"github.com/prefixproxy/prefixproxy/internal/spool"
)

// A piece is a run of whole Carbon lines in a block of the queue: what is written
// to the upstream at once, and what is acknowledged as one. Its bytes never
// change; a piece that was not taken yet may grow at its end.
type piece struct {
	block    *block
	from, to int // in the block's lines
	lines    int
	born     time.Time // arrival of the oldest line

	proven bool   // a peer's kernel has it; it is kept to be sent again
	end    uint64 // where it ends, in bytes of what its connection was sent

	acked   time.Time // when the kernel of the peer was seen to have it
	repeats int       // idle connections that ended with it

	inBurst bool // it is sent as a part of the backlog

	// Of lines that came from the spool:
	record   spool.Record // to be committed when they are proven
	isRecord bool
}

func (p *piece) bytes() []byte { return p.block.Slice(p.from, p.to) }
func (p *piece) size() int     { return p.to - p.from }

// isCopy says whether the lines are in the spool, too.
func (p *piece) isCopy() bool { return p.block.Kind() == journal.Copied }

// grow appends what follows in the block, if the two may be one: the lines of one
// that was not delivered came within span.
func (p *piece) grow(next *piece, span time.Duration) bool {
	if p.block != next.block || p.to != next.from || p.proven != next.proven || p.repeats != next.repeats || p.size()+next.size() > batchSize {
		return false
	}
	if !p.proven && next.born.Sub(p.born) > span {
		return false
	}
	p.to, p.lines, p.end = next.to, p.lines+next.lines, next.end
	if next.isRecord {
		p.record, p.isRecord = next.record, true
	}
	return true
}

// A block is a segment of the journal with pieces of it. It goes back to the
// journal when nothing is left of it.
type block struct {
	*journal.Segment
	pieces  int    // that are left
	open    bool   // more may be appended
	settled []span // behind its Done, and not adjoining it yet
}

// A span is a range of bytes in a block.
type span struct{ from, to int }

// settle says that the lines of p need no more delivery, or only by replay.
func (p *piece) settle() {
	b := p.block
	if p.from > b.Done() {
		b.settled = append(b.settled, span{p.from, p.to})
		return
	}
	b.SetDone(p.to)
	for i := 0; i < len(b.settled); i++ {
		if s := b.settled[i]; s.from <= b.Done() {
			b.SetDone(s.to)
			b.settled = slices.Delete(b.settled, i, i+1)
			i = -1
		}
	}
}

// A lineLog holds pieces in the order in which they came, in blocks of one kind.
type lineLog struct {
	kind   journal.Kind
	pieces fifo[*piece]
	tail   *block // to which more is appended; nil: none
}

// append copies n lines into the log.
func (q *carbonQueue) append(log *lineLog, lines []byte, n int, born time.Time) {
	for len(lines) > 0 {
		b := q.room(log, lines, born)
		fit, count := len(lines), n
		if most := min(b.Left(), batchSize); fit > most {
			fit = bytes.LastIndexByte(lines[:most], '\n') + 1
			count = journal.CountLines(lines[:fit])
		}
		from := len(b.Lines)
		b.Append(lines[:fit])
		q.note(log, piece{block: b, from: from, to: from + fit, lines: count, born: born})
		lines, n = lines[fit:], n-count
	}
}

// room returns the block to which the first of lines is to be appended.
func (q *carbonQueue) room(log *lineLog, lines []byte, born time.Time) *block {
	first := bytes.IndexByte(lines, '\n') + 1
	if log.tail != nil && first <= log.tail.Left() {
		return log.tail
	}
	q.seal(log)
	s, err := q.journal.Get(log.kind, born)
	if err != nil {
		q.unkept = err
	}
	log.tail = &block{Segment: s, open: true}
	return log.tail
}

// seal says that no more is appended to the log's tail.
func (q *carbonQueue) seal(log *lineLog) {
	if b := log.tail; b != nil {
		log.tail, b.open = nil, false
		q.putBack(b)
	}
}

// note puts a new piece at the end of the log.
func (q *carbonQueue) note(log *lineLog, p piece) {
	span := mergeSpan
	if log.pieces.len() >= manyPieces {
		span = heldMax // a host that says little, in a long outage: pieces are memory, too
	}
	if last := log.pieces.last(); last != nil && last.grow(&p, span) {
		return
	}
	p.block.pieces++
	log.pieces.push(q.newPiece(p))
}

// newPiece returns p in memory that lasts.
func (q *carbonQueue) newPiece(p piece) *piece {
	last := len(q.spare) - 1
	var kept *piece
	if last < 0 {
		kept = new(piece)
	} else {
		kept, q.spare = q.spare[last], q.spare[:last]
	}
	*kept = p
	return kept
}

// release ends the use of p.
func (q *carbonQueue) release(p *piece) {
	b := p.block
	b.pieces--
	q.putBack(b)
	*p = piece{}
	if len(q.spare) < maxSpare {
		q.spare = append(q.spare, p)
	}
}

// manyPieces is how many must wait for their ages to be known less well.
const manyPieces = 1024

// maxSpare is how many pieces are kept for the next ones.
const maxSpare = 64

// putBack gives a block that nothing is left of back to the journal.
func (q *carbonQueue) putBack(b *block) {
	if b.pieces == 0 && !b.open {
		q.journal.Put(b.Segment)
	}
}
