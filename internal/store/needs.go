package store

import (
	"cmp"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// needs is what a destination needs of the log, in parts that don't overlap: first what was
// sent to it on this session, in that order, and then what waits. The way of a part:
//
//	add ──→ waits ──take──→ sent ──deliver──→ delivered ──trim──→ nothing
//	          ↑              │                    │
//	          └── rewind ────┴────────────────────┘
type needs struct {
	parts  []part
	sent   int   // so many, at the head, were sent
	proven int   // so many of these, at the head, are delivered by this session
	bytes  int64 // of what is not delivered, and kept
	old    bool  // the session has lasted: what rests is sent, too
}

// A part is a part of the log that was sent, or waits.
type part struct {
	records.Span
	size      int    // bytes of lines, of what was sent
	end       uint64 // where it ends in the session
	sends     uint8  // on how many sessions it was sent
	idle      uint8  // of them, how many its peer closed in order when it was idle
	late      bool   // what was never sent: younger lines go before it
	delivered bool
	lost      bool   // it cannot be sent again, for why
	why       Reason // it could not be kept
}

// owed returns how many bytes of a part count against the bounds.
func (p *part) owed() int64 {
	if p.lost || p.delivered {
		return 0
	}
	return p.Bytes()
}

// isFresh says whether a waiting part counts as live.
func (p *part) isFresh() bool { return p.sends == 0 && !p.late }

// add adds new lines, which will wait.
func (n *needs) add(sp records.Span, late bool) {
	n.bytes += sp.Bytes()
	if last := len(n.parts) - 1; last >= n.sent {
		if p := &n.parts[last]; p.To == sp.From && p.sends == 0 && p.late == late {
			p.To = sp.To
			return
		}
	}
	n.parts = append(n.parts, part{Span: sp, late: late})
}

// rests says whether a waiting part is not sent before a session has lasted: as often as that,
// it may go to a peer that was idle, or to a balancer that has nobody to give it to.
func (n *needs) rests(p part) bool { return p.idle == maxIdle && !n.old }

// waiting is what waits: what was sent least often first, and of that the oldest.
func (n *needs) waiting() []part { return n.parts[n.sent:] }

// undelivered appends to dst all that is not delivered, wherever it is.
func (n *needs) undelivered(dst records.Spans) records.Spans {
	for i := range n.parts {
		if !n.parts[i].delivered {
			dst.Add(n.parts[i].Span)
		}
	}
	return dst
}

// owes says whether anything in sp is kept and not delivered.
func (n *needs) owes(sp records.Span) bool {
	return slices.ContainsFunc(n.parts, func(p part) bool { return p.owed() > 0 && !p.Within(sp).IsEmpty() })
}

// eldest returns the place of the oldest line that is kept and not delivered.
func (n *needs) eldest() records.Place {
	at := records.End
	for i := range n.parts {
		if p := &n.parts[i]; p.owed() > 0 && p.From.At < at.At {
			at = p.From
		}
	}
	return at
}

// age makes fresh parts before live late.
func (n *needs) age(live records.Place) {
	for i := n.sent; i < len(n.parts); i++ {
		p := n.parts[i]
		if !p.isFresh() || p.From.At >= live.At {
			continue
		}
		p.Span, p.late = p.Within(records.Span{To: live}), true
		rest := n.cut(i, p.Span)
		if i > n.sent && n.parts[i-1].late && n.parts[i-1].To == p.From {
			n.parts[i-1].To = p.To
			i += rest - 1
		} else {
			n.parts = slices.Insert(n.parts, i, p)
		}
	}
}

// isLate says whether lines wait that younger ones overtake: some have been overtaken, or lie
// before live.
func (n *needs) isLate(live records.Place) bool {
	return slices.ContainsFunc(n.waiting(), func(p part) bool { return !n.rests(p) && (p.late || p.From.At < live.At) })
}

// late returns what waits in a tier and is not fresh; an empty span if there is nothing.
func (n *needs) late(tier records.Span) (sp records.Span) {
	for _, p := range n.waiting() {
		if sp = p.Within(tier); !p.isFresh() && !n.rests(p) && !sp.IsEmpty() {
			return sp
		}
	}
	return records.Span{}
}

// cut takes sp out of part i, and returns how many parts are left of it.
func (n *needs) cut(i int, sp records.Span) int {
	left := make([]part, 0, 2)
	before, behind := n.parts[i].Minus(sp)
	for _, rest := range [...]records.Span{before, behind} {
		if !rest.IsEmpty() {
			p := n.parts[i]
			p.Span, p.size = rest, int(rest.Bytes())
			left = append(left, p)
		}
	}
	n.parts = slices.Replace(n.parts, i, i+1, left...)
	return len(left)
}

// take moves sp from what waits to what was sent; nil: it no longer waits.
func (n *needs) take(sp records.Span) *part {
	i := slices.IndexFunc(n.waiting(), func(p part) bool { return p.Holds(sp) })
	if i < 0 {
		return nil
	}
	i += n.sent
	p := n.parts[i]
	p.Span = sp
	n.cut(i, sp)
	n.parts = slices.Insert(n.parts, n.sent, p)
	n.sent++
	return &n.parts[n.sent-1]
}

// deliver notes that the peer has what was sent up to an offset in the session, and returns how
// many lines it did not have before.
func (n *needs) deliver(to uint64) (lines int, changed bool) {
	first := n.proven
	i, kept := first, first
	for ; i < n.sent && n.parts[i].end <= to; i++ {
		p := n.parts[i]
		if !p.delivered {
			lines += p.Lines()
			n.bytes -= p.owed()
			p.delivered = true
		}
		if kept > 0 && n.parts[kept-1].grow(p, records.MaxRecord*(1+kept/(manyParts/16))) {
			continue
		}
		n.parts[kept] = p
		kept++
	}
	n.parts = slices.Delete(n.parts, kept, i)
	n.sent -= i - kept
	n.proven = kept
	return lines, i > first
}

// manyParts is how many parts may be sent before we keep a coarser account of what is
// delivered, to save memory.
const manyParts = 4096

// grow appends next, if the two together fit into one part of most bytes.
func (p *part) grow(next part, most int) bool {
	if p.To != next.From || p.sends != next.sends || p.idle != next.idle || p.lost != next.lost || p.size+next.size > most {
		return false
	}
	p.To, p.size, p.end = next.To, p.size+next.size, next.end
	return true
}

// trim lets go of what is delivered and lies before a window of so many bytes. The window ends
// with what is acknowledged but not delivered yet.
func (n *needs) trim(window int64, acked uint64) {
	for i := n.sent - 1; i >= 0; i-- {
		switch p := &n.parts[i]; {
		case p.end > acked:
		case i < n.proven && window <= 0:
			n.parts = slices.Delete(n.parts, 0, i+1)
			n.sent -= i + 1
			n.proven -= i + 1
			return
		default:
			window -= int64(p.size)
		}
	}
}

// forget lets go of the oldest delivered parts, as many as hold so many bytes; false: there are
// none.
func (n *needs) forget(bytes int64) (changed bool) {
	var sent, proven int
	kept := n.parts[:0]
	for i, p := range n.parts {
		if bytes > 0 && p.delivered && !p.lost && (i < n.proven || i >= n.sent) {
			bytes -= p.Bytes()
			continue
		}
		kept = append(kept, p)
		if i < n.sent {
			sent++
		}
		if i < n.proven {
			proven++
		}
	}
	changed = len(kept) < len(n.parts)
	n.parts, n.sent, n.proven = kept, sent, proven
	return changed
}

// lose takes out what waits of sp, and returns how many of its lines are not delivered. Of what
// was sent, that isn't known yet.
func (n *needs) lose(sp records.Span, why Reason) (lines int) {
	for i := range n.parts[:n.sent] {
		if p := &n.parts[i]; !p.lost && !p.Within(sp).IsEmpty() {
			n.bytes -= p.owed()
			p.lost, p.why = true, why
		}
	}
	for i := n.sent; i < len(n.parts); {
		p := n.parts[i]
		gone := p.Within(sp)
		if gone.IsEmpty() {
			i++
			continue
		}
		if !p.delivered {
			lines += gone.Lines()
			n.bytes -= gone.Bytes()
		}
		i += n.cut(i, gone)
	}
	return lines
}

// rewind makes what was sent, and is still kept, wait again. isIdle says that the peer closed
// in order when all was acknowledged; most, how many bytes may rest. What is lost without having
// been delivered is counted.
func (n *needs) rewind(isIdle bool, most int64) (dropped [NumReasons]int) {
	kept := make([]part, 0, len(n.parts))
	for i, p := range n.parts {
		if i < n.sent {
			if isIdle && p.delivered {
				p.idle++
			}
			if p.lost && !p.delivered {
				dropped[p.why] += p.Lines()
			}
			if p.lost || p.idle > maxIdle {
				continue
			}
			p.late = false
		}
		kept = append(kept, p)
	}
	// A server that breaks one session after another is to get everything in turn. What rests
	// comes last, the oldest first.
	slices.SortStableFunc(kept, func(a, b part) int {
		if a.idle == maxIdle && b.idle == maxIdle {
			return cmp.Compare(a.From.At, b.From.At)
		}
		return cmp.Or(cmp.Compare(a.idle/maxIdle, b.idle/maxIdle), cmp.Compare(max(1, a.sends), max(1, b.sends)))
	})
	var resting int64
	for _, p := range kept {
		if p.idle == maxIdle {
			resting += p.Bytes()
		}
	}
	n.parts = kept[:0]
	for _, p := range kept {
		if p.idle == maxIdle && resting > most {
			resting -= p.Bytes()
			continue
		}
		if last := len(n.parts) - 1; p.idle < maxIdle || last < 0 || !n.parts[last].grow(p, restingPart) {
			n.parts = append(n.parts, p)
		}
	}
	n.sent, n.proven, n.old = 0, 0, false
	return dropped
}

// restingPart is how large a part that rests may grow, in bytes: they are not to be too many.
const restingPart = 1 << 20
