package proxy

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

// An ingest turns what a socket brought into batches: it cuts lines, checks
// and rewrites them straight into the batch that leaves, and tallies. It knows
// no socket. Each reader has its own; one goroutine uses it, like this:
//
//	in.begin(time.Now(), naming.current())
//	rest := in.stream(data)                // or in.datagram(data), many times
//	queue.accept(&in.tally, in.end()...)
//
// Lines that are counted here leave in no batch.
type ingest struct {
	proto   line.Protocol
	bad     *badLines
	peer    func() string // who sent what is being read; asked for bad lines alone
	counter *pointQueue   // where lines are counted; nil: they leave

	// From begin to end:
	at    time.Time // arrival
	now   int64     // arrival in Unix seconds
	names *rewriters
	rw    *line.Rewriter // of names, for our protocol
	tally tally

	reading *aggregate.Reading // lines to be counted; nil: there are none
	ready   *batch             // lines that leave, or those of reading
	held    *batch             // lines that need a name first; nil until there is one
	full    []*batch
}

// newIngest returns an ingest of lines that go to a queue.
func newIngest(p line.Protocol, to queue, bad *badLines) *ingest {
	in := &ingest{proto: p, bad: bad, peer: func() string { return "" }}
	in.counter, _ = to.(*pointQueue)
	return in
}

var readings = sync.Pool{New: func() any { return new(aggregate.Reading) }}

// begin opens batches for lines that arrived at a moment, to be rewritten by
// r. For the sake of Carbon lines that mean "now", r must have been asked for
// after that moment.
func (in *ingest) begin(at time.Time, r *rewriters) {
	in.at, in.now, in.names, in.rw = at, at.Unix(), r, r.by[in.proto]
	bound := r
	if in.proto == line.Carbon || r.claim == nil {
		bound = nil // a Carbon line keeps its name, whoever holds it when it leaves
	}
	in.ready = newBatch(at, bound, false)
	if in.counter != nil {
		in.reading = readings.Get().(*aggregate.Reading)
	}
}

// stream takes the whole lines of data and returns what is behind the last.
func (in *ingest) stream(data []byte) (rest []byte) {
	for {
		if in.proto == line.Carbon {
			data = in.plainLines(data)
		}
		ln, rest, ok := line.Cut(data)
		if !ok {
			return rest
		}
		in.line(ln)
		data = rest
	}
}

// plainLines takes lines at the head of data as long as they are as nearly all are, and
// returns what follows.
func (in *ingest) plainLines(data []byte) (rest []byte) {
	for {
		buf, rest, lines, rewritten := in.rw.AppendPlain(in.ready.buf, data, batchFull)
		in.tally.received += lines
		in.tally.rewritten += rewritten
		in.ready.buf = buf
		in.ready.lines += lines
		if len(buf) <= batchFull {
			return rest
		}
		in.fill()
		data = rest
	}
}

// datagram takes all lines of data. The last may lack its "\r\n", or the second half of it.
func (in *ingest) datagram(data []byte) {
	if rest := bytes.TrimSuffix(in.stream(data), []byte("\r")); len(rest) > 0 {
		in.line(rest)
	}
}

// line takes one line, without its end.
func (in *ingest) line(ln []byte) {
	if in.reading != nil && in.countPlain(ln) {
		return
	}
	buf, res := in.rw.Append(in.ready.buf, ln, in.now)
	switch {
	case res == line.Empty:
		return
	case res == line.Earlier:
		in.earlier(ln)
		return
	case !res.Appended():
		in.drop(reason(res), ln)
		return
	}
	if res == line.Held {
		in.tally.received++
		in.hold(buf[len(in.ready.buf):])
		return
	}
	if in.reading != nil {
		in.countRewritten(buf, ln)
		return
	}
	in.tally.received++
	if res == line.Rewritten {
		in.tally.rewritten++
	}
	in.leave(buf)
}

// leave takes the line with which buf ends, behind those that leave.
func (in *ingest) leave(buf []byte) {
	in.ready.buf = buf
	in.ready.lines++
	if len(buf) > batchFull {
		in.fill()
	}
}

// fill begins another batch of lines that leave.
func (in *ingest) fill() {
	in.full = append(in.full, in.ready)
	in.ready = newBatch(in.at, in.ready.names, false)
}

// countPlain takes a line that is to be counted and is as most are, if it is one. But the first in
// the batch is rewritten like those that leave: ownName looks at it.
func (in *ingest) countPlain(ln []byte) bool {
	begin := len(in.ready.buf)
	if begin == 0 {
		return false
	}
	buf := append(in.ready.buf, ln...) // which is the sender's
	path, metrics, ok := in.rw.CutOwn(buf[begin:])
	if !ok || !in.reading.Plain(path, metrics) {
		return false
	}
	in.ready.buf = buf
	in.countIfFull()
	return true
}

// countRewritten takes a line that is to be counted, with which buf ends, and came as ln.
func (in *ingest) countRewritten(buf, ln []byte) {
	if why := in.reading.Line(buf[len(in.ready.buf):], in.counter.config.Load().Tags); !why.Appended() {
		in.drop(reason(why), ln)
		return
	}
	in.ready.buf = buf
	in.countIfFull()
}

// countIfFull counts what was read, if there is no room for another line.
func (in *ingest) countIfFull() {
	if in.reading.IsFull() || len(in.ready.buf) > batchFull {
		in.counter.count(in.reading, in.at)
		in.ready.buf = in.ready.buf[:0]
	}
}

// earlier takes a Carbon line of a second before the claim: the name is that of
// the tenure which it falls into.
func (in *ingest) earlier(ln []byte) {
	rw := in.names.earlier(line.Timestamp(ln, in.now))
	if rw == nil {
		in.drop(otherTenure, ln)
		return
	}
	in.rw = rw
	in.line(ln)
	in.rw = in.names.by[in.proto]
}

// again takes lines and points that were held until there is a name.
func (in *ingest) again(data []byte) {
	for {
		if in.proto == line.Carbon {
			data = in.plainLines(data) // no point is one
		}
		ln, rest, ok := line.Cut(data)
		switch {
		case !ok:
			return
		case bytes.IndexByte(ln, line.Mark[0]) >= 0:
			in.points(data[:len(data)-len(rest)])
		default:
			in.line(ln)
		}
		data = rest
	}
}

// points takes points (internal/aggregate): Carbon lines with line.Mark in the place of
// the name of the tenure that their second falls into.
func (in *ingest) points(data []byte) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n') + 1
		point := data[:end]
		data = data[end:]
		in.tally.received++
		if in.names.claim == nil {
			in.hold(point)
			continue
		}
		second, _ := strconv.ParseInt(string(point[bytes.LastIndexByte(point, ' ')+1:end-1]), 10, 64)
		name, ok := in.names.claim.NameAt(second)
		if !ok {
			in.tally.dropped[otherTenure]++
			continue
		}
		head, tail, _ := bytes.Cut(point, []byte(line.Mark))
		in.tally.rewritten++
		in.leave(append(append(append(in.ready.buf, head...), name...), tail...))
	}
}

// hold keeps ln, with its end, until there is a name.
func (in *ingest) hold(ln []byte) {
	if in.held == nil {
		in.held = newBatch(in.at, nil, true)
	}
	in.held.buf = append(in.held.buf, ln...)
	in.held.lines++
	if len(in.held.buf) > batchFull {
		in.full = append(in.full, in.held)
		in.held = nil
	}
}

// drop counts a line as received and dropped. Those that are bad, and not only dropped by
// the rules, are kept for a person to look at.
func (in *ingest) drop(why reason, ln []byte) {
	in.tally.received++
	in.tally.dropped[why]++
	if why != reason(line.UnmatchedPath) && why != otherTenure {
		in.bad.add(in.at, in.proto, why, in.peer(), ln)
	}
}

// dropUnseen counts that many lines as received and dropped.
func (in *ingest) dropUnseen(why reason, lines int) {
	in.tally.received += lines
	in.tally.dropped[why] += lines
}

// end closes the batches and returns them; they are the caller's. The slice is
// valid until the next begin.
func (in *ingest) end() []*batch {
	if in.reading != nil {
		in.counter.count(in.reading, in.at)
		readings.Put(in.reading)
		in.reading = nil
	}
	out := append(in.full, in.ready)
	if in.held != nil {
		out = append(out, in.held)
	}
	in.full, in.ready, in.held = out[:0], nil, nil
	return out
}
