package proxy

import (
	"bytes"
	"runtime"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A handler takes what one socket brings, as the inlet's Handler: its lines go
// through an ingest into the queue.
type handler struct {
	ingest *ingest
	queue  queue
	naming *naming
	owner  *ownName

	skipping bool // within a line that is too long
}

// newHandler returns the handler of a socket.
func (p *Proxy) newHandler(proto line.Protocol, peer func() string) inlet.Handler {
	q := p.queues[proto]
	h := &handler{ingest: newIngest(proto, q, p.bad), queue: q, naming: p.naming, owner: p.owner}
	h.ingest.peer = peer
	return h
}

// Begin opens batches for what arrived at a moment. It asks for the claim after
// that, for the sake of Carbon lines that mean "now".
func (h *handler) Begin(at time.Time) { h.ingest.begin(at, h.naming.current(h.queue)) }

// crowded is how many bytes may wait before the readers let others go first.
const crowded = 2 * batchSize

// End puts them into the queue. Where much waits there, the upstream or the spool goes
// first: readers that always find input would keep it from its turn.
func (h *handler) End() {
	names := h.ingest.names
	batches := h.ingest.end()
	h.owner.look(batches[0].buf, names)
	if h.queue.accept(&h.ingest.tally, batches...) > crowded {
		runtime.Gosched()
	}
}

// Stream takes the whole lines of data and returns what is behind the last. What
// is too long to become a line is dropped at once, and its end when it comes.
func (h *handler) Stream(data []byte) (rest []byte) {
	rest = h.ingest.stream(h.skip(data))
	if len(rest) > inlet.MaxRest {
		h.ingest.drop(tooLong, rest)
		h.skipping, rest = true, nil
	}
	return rest
}

// skip passes over the end of a line that was dropped.
func (h *handler) skip(data []byte) []byte {
	if !h.skipping {
		return data
	}
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return nil
	}
	h.skipping = false
	return data[end+1:]
}

// Datagram takes all lines of data. Where its end was cut off, the last is not
// whole, and those behind it, which are not to be seen, count as if as long as the others.
func (h *handler) Datagram(data []byte, lost int) {
	data = h.skip(data)
	h.skipping = false
	if lost == 0 {
		h.ingest.datagram(data)
		return
	}
	rest := h.ingest.stream(data)
	read := bytes.Count(data, newline)
	h.ingest.drop(truncated, rest)
	h.ingest.dropUnseen(truncated, int(int64(read)*int64(lost)/int64(max(1, len(data)-len(rest)))))
}

// Drop drops what is not seen again: a line that was never finished (a cut value is a
// wrong value), one that takes too much room, or whatever a stream holds that is not
// understood.
func (h *handler) Drop(why inlet.Reason, data []byte) {
	switch why {
	case inlet.Unterminated:
		h.ingest.drop(unterminated, data)
	case inlet.TooLong:
		h.ingest.drop(tooLong, data)
		h.skipping = true
	case inlet.Misframed:
		h.ingest.drop(misframed, data)
		h.ingest.dropUnseen(misframed, bytes.Count(bytes.TrimSuffix(data, newline), newline))
	}
}
