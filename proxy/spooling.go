package proxy

import (
	"bytes"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/journal"
	"github.com/prefixproxy/prefixproxy/internal/spool"
)

// This file is what the keeper asks of the queue.

// A spoolRun is some pieces of one block, adjoining each other, in the hands of
// the keeper.
type spoolRun struct {
	list   *fifo[*piece] // from which they were taken
	pieces []*piece
	lines  int
}

func (r *spoolRun) born() time.Time { return r.pieces[0].born }

func (r *spoolRun) kind() spool.Kind {
	if r.pieces[0].block.Kind() == journal.Raw {
		return spool.Raw
	}
	return spool.Named
}

// bytes is what the pieces hold.
func (r *spoolRun) bytes() []byte {
	first, last := r.pieces[0], r.pieces[len(r.pieces)-1]
	return first.block.Slice(first.from, last.to)
}

// takeForSpool hands over the oldest lines that wait, if the queue is under
// pressure; nil: none.
func (q *carbonQueue) takeForSpool() *spoolRun {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.oldest()
	if list == nil || !q.isPressed() {
		return nil
	}
	return q.takeRun(list)
}

// takeRun takes what adjoins at the head of a list that is not empty. q.mu is
// held.
func (q *carbonQueue) takeRun(list *fifo[*piece]) *spoolRun {
	r := &spoolRun{list: list}
	for p := list.first(); p != nil && r.adjoins(p); p = list.first() {
		r.pieces = append(r.pieces, q.take(list))
		r.lines += p.lines
	}
	return r
}

// adjoins says whether p may be the next piece of r.
func (r *spoolRun) adjoins(p *piece) bool {
	if len(r.pieces) == 0 {
		return true
	}
	last := r.pieces[len(r.pieces)-1]
	return last.block == p.block && last.to == p.from && last.proven == p.proven
}

// spooled books that r is on disk, for which the spool has dropped so many
// lines.
func (q *carbonQueue) spooled(r *spoolRun, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range r.pieces {
		if p.proven { // booked long ago
			q.release(p)
			continue
		}
		q.books.spooled += p.lines
		q.settle(p.lines)
		q.leave(p)
	}
	q.bookSpoolLoss(dropped)
}

// returnToQueue takes r back.
func (q *carbonQueue) returnToQueue(r *spoolRun) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(r.pieces) - 1; i >= 0; i-- {
		r.list.pushFront(r.pieces[i])
	}
	if r.list == &q.raw.pieces {
		q.holding.Add(int64(r.lines))
		notify(q.moreHeld)
	}
	notify(q.more)
}

// bookSpoolLoss books lines that the spool had to drop. q.mu is held.
func (q *carbonQueue) bookSpoolLoss(lines int) {
	q.books.spooled -= lines
	q.books.dropped[spoolFull] += uint64(lines)
}

// loseSpooled books lines that the spool could not give back.
func (q *carbonQueue) loseSpooled(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bookSpoolLoss(lines)
}

// adoptSpool books what the spool held at the start.
func (q *carbonQueue) adoptSpool(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.adopted += uint64(lines)
	q.books.spooled += lines
}

// spoolBound returns how many bytes the spool may take; 0: there is none.
func (q *carbonQueue) spoolBound() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.spool
}

// fileTrouble returns why lines are not in the journal's file; nil: they are.
func (q *carbonQueue) fileTrouble() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unkept
}

// wantsCopy says whether more of the spool may be copied to memory.
func (q *carbonQueue) wantsCopy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.linked && !q.closed && q.copiedBytes < readAhead
}

// copyNamed takes the lines of a record, to be sent.
func (q *carbonQueue) copyNamed(r spool.Record) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.copy(r.Data, r.Lines, r.Born)
	q.finishCopy(r)
}

// copyRaw takes what became of the lines of a record that had no name: in holds
// those that got one, t counts the others.
func (q *carbonQueue) copyRaw(r spool.Record, t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range t.dropped {
		q.books.spooled -= n
	}
	q.book(t)
	for _, b := range in {
		q.copy(b.buf, b.lines, b.born)
		b.free()
	}
	q.finishCopy(r)
}

func (q *carbonQueue) copy(lines []byte, n int, born time.Time) {
	q.append(&q.copied, lines, n, born)
	q.copiedBytes += len(lines)
}

// finishCopy says that all lines of r have been copied. It is committed with the
// last of them; where none is left, with the last of an earlier one, or at once.
// q.mu is held.
func (q *carbonQueue) finishCopy(r spool.Record) {
	r.Data = nil // the keeper reads the next one into it
	notify(q.more)
	for _, list := range []*fifo[*piece]{&q.copied.pieces, &q.again, &q.unacked, &q.ripening} { // the last to be sent first
		pieces := list.all()
		for i := len(pieces) - 1; i >= 0; i-- {
			if p := pieces[i]; p.isCopy() && !p.proven {
				p.record, p.isRecord = r, true
				return
			}
		}
	}
	q.committed, q.commits = r, true
	notify(q.keeper)
}

// takeCommit returns the last record that was delivered with all before it, if
// there is a new one.
func (q *carbonQueue) takeCommit() (r spool.Record, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r, ok, q.commits = q.committed, q.commits, false
	return r, ok
}

// adopt takes the segments that a predecessor left, the oldest first. What was
// delivered is sent again, as far as the predecessor had kept it for that; of
// copies, the spool has the rest.
func (q *carbonQueue) adopt(j *journal.Journal, segments []*journal.Segment) (lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.journal = j
	for _, s := range segments {
		b := &block{Segment: s, open: true}
		done := s.Done()
		if q.replay > 0 && s.Kind() != journal.Raw {
			for p := range b.cut(0, done) {
				p.proven = true
				q.again.push(q.newPiece(p))
			}
		}
		switch s.Kind() {
		case journal.Named:
			lines += q.adoptInto(&q.named.pieces, b)
		case journal.Raw:
			n := q.adoptInto(&q.raw.pieces, b)
			q.holding.Add(int64(n))
			lines += n
		}
		b.open = false
		q.putBack(b)
	}
	q.books.adopted += uint64(lines)
	q.books.queued += lines
	q.excess = q.bytes // the bound may have been higher
	notify(q.keeper)
	notify(q.more)
	notify(q.moreHeld)
	return lines
}

// adoptInto takes what is left in b.
func (q *carbonQueue) adoptInto(list *fifo[*piece], b *block) (lines int) {
	for p := range b.cut(b.Done(), len(b.Lines)) {
		list.push(q.newPiece(p))
		lines += p.lines
		q.bytes += p.size()
	}
	return lines
}

// cut yields the lines from one offset to another as pieces.
func (b *block) cut(from, to int) func(yield func(piece) bool) {
	return func(yield func(piece) bool) {
		for from < to {
			n := min(batchSize, to-from)
			n = bytes.LastIndexByte(b.Lines[from:from+n], '\n') + 1
			if n == 0 { // a line longer than any: it is not ours
				return
			}
			b.pieces++
			p := piece{block: b, from: from, to: from + n, lines: journal.CountLines(b.Lines[from : from+n]), born: b.Born()}
			if !yield(p) {
				return
			}
			from += n
		}
	}
}

// rest hands over all that is left when nothing is sent any more: what was not
// delivered, and what was, but may not have been read. What is copied from the
// spool is there still, and goes; nil: nothing is left.
func (q *carbonQueue) rest() *spoolRun {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, list := range []*fifo[*piece]{&q.ripening, &q.unacked, &q.again, &q.behind, &q.named.pieces, &q.raw.pieces, &q.window} {
		for p := list.first(); p != nil && p.isCopy() && !p.proven; p = list.first() {
			q.release(list.pop())
		}
		if list.first() != nil {
			return q.takeRun(list)
		}
	}
	return nil
}

// isEmpty says whether rest would hand over nothing.
func (q *carbonQueue) isEmpty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, list := range []*fifo[*piece]{&q.ripening, &q.unacked, &q.again, &q.behind, &q.named.pieces, &q.raw.pieces, &q.window} {
		for _, p := range list.all() {
			if p.proven || !p.isCopy() {
				return false
			}
		}
	}
	return true
}
