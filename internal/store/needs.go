package store

import (
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// needs is what a destination needs of the log. What is kept for it is in todo or in done; of
// that, what is not on its way waits in a queue. The way of a line:
//
//	add ──→ waits ──Next──→ sent ──deliver──→ delivered ──trim──→ nothing
//	          ↑              │                    │
//	          └── rewind ────┴────────────────────┘
type needs struct {
	todo   records.Spans              // not delivered
	done   [maxIdle + 1]records.Spans // delivered, and sent again if need be; by on how many sessions its peer closed in order when it was idle
	lost   records.Spans              // sent, and not delivered, but no longer kept
	why    Reason                     // of the last that was
	queues [numQueues]records.Spans   // what waits
	proven []part                     // sent and delivered on this session, in that order
	sent   []part                     // after these
}

// A queue is a part of what waits.
type queue int

// The queues, in the order in which they are sent while nothing is late. Where one session after
// the other breaks, everything gets its turn.
const (
	again    queue = iota // was sent on one session
	late                  // new, but younger lines go before it
	fresh                 // new
	repeated              // was sent on more sessions than one
	spent                 // had its turn among those
	resting               // went so often to idle peers, or to a balancer that has nobody to give it to, that it waits for a session that lasts
	numQueues
)

// next is the queue of what was in another and was sent.
var next = [numQueues]queue{again: repeated, late: again, fresh: again, repeated: spent, spent: spent, resting: spent}

// A part of the log that was sent.
type part struct {
	records.Span
	queue queue  // in which it waited
	end   uint64 // where it ends in the session
}

// isJoined says whether p and what was sent next are kept as one.
func (p part) isJoined(next part) bool {
	return p.To == next.From && p.queue == next.queue && p.Bytes()+next.Bytes() <= records.MaxRecord
}

// add adds new lines, which will wait.
func (n *needs) add(sp records.Span, q queue) {
	n.todo.Add(sp)
	n.queues[q].Add(sp)
}

// first returns what of a tier is sent first, and its queue; an empty span if there is nothing.
func (n *needs) first(tier records.Span) (sp records.Span, q queue) {
	for q, all := range n.queues[:resting] {
		if sp = all.First(tier); !sp.IsEmpty() {
			return sp, queue(q)
		}
	}
	return records.Span{}, 0
}

// wait makes what is kept of sp wait.
func (n *needs) wait(sp records.Span, q queue) {
	n.todo.Copy(sp, &n.queues[q])
	for idle, done := range n.done {
		if idle == maxIdle {
			q = resting
		}
		done.Copy(sp, &n.queues[q])
	}
}

// deliver notes that the peer has what was sent up to an offset in the session, and returns how
// many lines it did not have before.
func (n *needs) deliver(to uint64) (lines int, changed bool) {
	i := 0
	for ; i < len(n.sent) && n.sent[i].end <= to; i++ {
		p := n.sent[i]
		lines += n.todo.Move(p.Span, &n.done[0]) + n.lost.Remove(p.Span)
		if last := len(n.proven) - 1; last >= 0 && n.proven[last].isJoined(p) {
			p.From = n.proven[last].From
			n.proven = n.proven[:last]
		}
		n.proven = append(n.proven, p)
	}
	n.sent = slices.Delete(n.sent, 0, i)
	return lines, i > 0
}

// trim lets go of what is delivered and lies before a window of so many bytes, which ends with what
// is acknowledged.
func (n *needs) trim(window int64, acked uint64) {
	before := 0
	for ; before < len(n.proven) && int64(acked-n.proven[before].end) >= window; before++ {
		n.forget(n.proven[before].Span)
	}
	n.proven = slices.Delete(n.proven, 0, before)
}

// keeps says whether anything of sp is kept.
func (n *needs) keeps(sp records.Span) bool {
	return n.todo.Touches(sp) || slices.ContainsFunc(n.done[:], func(done records.Spans) bool { return done.Touches(sp) })
}

// forget lets go of what is delivered of sp.
func (n *needs) forget(sp records.Span) {
	for idle := range n.done {
		n.done[idle].Remove(sp)
	}
}

// lose takes out sp, and returns how many of its lines are not delivered. Of what was sent, that
// isn't known yet.
func (n *needs) lose(sp records.Span, why Reason) (lines int) {
	n.forget(sp)
	for _, p := range n.sent {
		if n.todo.Move(p.Within(sp), &n.lost) > 0 {
			n.why = why
		}
	}
	for q := range n.queues {
		n.queues[q].Remove(sp)
	}
	return n.todo.Remove(sp)
}

// rewind makes what was sent, and is still kept, wait again. isIdle says that the peer closed
// in order when all was acknowledged. It returns how many lines are lost that were not delivered.
func (n *needs) rewind(isIdle bool) (dropped int) {
	for _, p := range slices.Concat(n.proven, n.sent) {
		if isIdle {
			for idle := maxIdle; idle > 0; idle-- {
				n.done[idle-1].Move(p.Span, &n.done[idle])
			}
		}
		n.wait(p.Span, next[p.queue])
	}
	if len(n.queues[repeated]) == 0 {
		n.queues[repeated], n.queues[spent] = n.queues[spent], nil
	}
	dropped = n.lost.Lines()
	n.proven, n.sent, n.lost = nil, nil, nil
	return dropped
}
